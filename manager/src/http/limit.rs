//! How often one network may ask: token buckets. Pure: the time is an argument.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU16;
use std::time::{Duration, Instant};

/// How many networks are remembered. When there are more, those that have been quiet are forgotten, and if
/// none has, newcomers wait.
const CAPACITY: usize = 16_384;
const MINUTE: Duration = Duration::from_secs(60);

/// An IPv4 address, or an IPv6 /64: what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Network(IpAddr);

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into()),
            address => Self(address),
        }
    }
}

/// One bucket for each network.
#[derive(Debug)]
pub(super) struct Buckets {
    size: f64,
    full_at: HashMap<Network, Instant>,
}

impl Buckets {
    /// Buckets that hold `limit` requests and are refilled in a minute.
    pub(super) fn per_minute(limit: NonZeroU16) -> Self {
        Self { size: f64::from(limit.get()), full_at: HashMap::new() }
    }

    /// Takes one request from the bucket of `network`.
    ///
    /// # Errors
    /// How long to wait, when the bucket is empty.
    pub(super) fn take(&mut self, network: Network, now: Instant) -> Result<(), Duration> {
        if self.full_at.len() >= CAPACITY && !self.full_at.contains_key(&network) {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= CAPACITY {
                return Err(MINUTE);
            }
        }
        let one = MINUTE.div_f64(self.size);
        // A bucket is known by the moment at which it will be full again.
        let full_at = self.full_at.get(&network).copied().unwrap_or(now).max(now) + one;
        let lacking = full_at - now;
        if lacking > MINUTE {
            return Err(lacking - MINUTE);
        }
        self.full_at.insert(network, full_at);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::from(text.parse::<IpAddr>().unwrap())
    }

    #[test]
    fn a_bucket_empties_and_refills_and_is_ones_own() {
        let now = Instant::now();
        let mut buckets = Buckets::per_minute(NonZeroU16::new(6).unwrap());
        let one = network("192.0.2.1");
        for _ in 0..6 {
            buckets.take(one, now).unwrap();
        }
        let wait = buckets.take(one, now).unwrap_err();
        assert!(wait > Duration::from_secs(9) && wait <= Duration::from_secs(10), "{wait:?}");
        buckets.take(network("192.0.2.2"), now).unwrap();
        buckets.take(one, now + wait).unwrap();
        assert!(buckets.take(one, now + wait).is_err());
        for _ in 0..6 {
            buckets.take(one, now + Duration::from_secs(3600)).unwrap();
        }
    }

    #[test]
    fn an_ipv6_network_is_a_64() {
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:0:0:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:192.0.2.1"), network("192.0.2.1"));
    }

    #[test]
    fn memory_is_bounded() {
        let now = Instant::now();
        let mut buckets = Buckets::per_minute(NonZeroU16::new(60).unwrap());
        for number in 0..u32::try_from(CAPACITY).unwrap() {
            buckets.take(Network::from(IpAddr::from(number.to_be_bytes())), now).unwrap();
        }
        assert!(buckets.take(network("2001:db8::1"), now).is_err());
        buckets.take(network("2001:db8::1"), now + Duration::from_secs(2)).unwrap();
        assert!(buckets.full_at.len() <= CAPACITY);
    }
}
