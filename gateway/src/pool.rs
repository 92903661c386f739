//! Which device has which addresses: a number per device, the same for ever, and an address of each family from it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use m2m_protocol::Version1;
use m2m_protocol::names::Token;

use crate::config;

/// The numbers of all devices that ever connected. Number 1 is the gateway itself.
#[derive(Debug)]
pub(crate) struct Pool {
    ranges: config::Pool,
    last: u32,
    numbers: BTreeMap<Token, u32>,
    devices: HashMap<u32, Token>,
    cursor: u32,
}

impl Pool {
    /// A pool over `ranges` in which the devices of `saved` keep their numbers. A number that the ranges do not
    /// reach any more is forgotten; its device gets another one.
    ///
    /// # Errors
    /// [`SavedError`] when `saved` gives a number twice, or the gateway's.
    pub(crate) fn new(ranges: config::Pool, saved: Saved) -> Result<Self, SavedError> {
        let last = last_number(&ranges);
        let mut pool = Self { ranges, last, numbers: BTreeMap::new(), devices: HashMap::new(), cursor: FIRST_DEVICE };
        for (device, number) in saved.devices {
            if number < FIRST_DEVICE {
                return Err(SavedError::Reserved { device, number });
            }
            if number > last {
                log::warn!("device {device} had number {number}, which the pool does not reach; it gets another one");
                continue;
            }
            if let Some(other) = pool.devices.insert(number, device.clone()) {
                return Err(SavedError::Twice { device, other, number });
            }
            pool.cursor = pool.cursor.max(number + 1);
            pool.numbers.insert(device, number);
        }
        Ok(pool)
    }

    /// The addresses of `device`: those that it had before, or free ones.
    ///
    /// # Errors
    /// [`Exhausted`] when every number is taken.
    pub(crate) fn assign(&mut self, device: &Token) -> Result<Assigned, Exhausted> {
        if let Some(number) = self.numbers.get(device) {
            return Ok(Assigned { addresses: self.addresses(*number), new: false });
        }
        let number = self.free_number().ok_or(Exhausted { devices: self.numbers.len() })?;
        self.cursor = number + 1;
        self.numbers.insert(device.clone(), number);
        self.devices.insert(number, device.clone());
        Ok(Assigned { addresses: self.addresses(number), new: true })
    }

    /// The gateway's own addresses.
    pub(crate) fn gateway(&self) -> Addresses {
        self.addresses(GATEWAY)
    }

    /// The number of devices that have addresses.
    pub(crate) fn assigned(&self) -> usize {
        self.numbers.len()
    }

    /// The number of devices for which there are addresses.
    pub(crate) fn capacity(&self) -> u32 {
        self.last - GATEWAY
    }

    /// What has to be kept.
    pub(crate) fn saved(&self) -> Saved {
        Saved { version: Version1, devices: self.numbers.clone() }
    }

    fn free_number(&self) -> Option<u32> {
        if self.numbers.len() >= usize::try_from(self.capacity()).unwrap_or(usize::MAX) {
            return None;
        }
        (self.cursor..=self.last)
            .chain(FIRST_DEVICE..self.cursor.min(self.last))
            .find(|number| !self.devices.contains_key(number))
    }

    fn addresses(&self, number: u32) -> Addresses {
        Addresses {
            ipv4: self.ranges.ipv4.map(|range| Ipv4Addr::from_bits(range.network().to_bits() + number)),
            ipv6: self.ranges.ipv6.map(|range| Ipv6Addr::from_bits(range.network().to_bits() + u128::from(number))),
        }
    }
}

const GATEWAY: u32 = 1;
const FIRST_DEVICE: u32 = 2;

/// The highest number that has an address in every range; the last IPv4 address is the broadcast address.
fn last_number(ranges: &config::Pool) -> u32 {
    let ipv4 = ranges.ipv4.map(|range| u32::MAX.checked_shr(range.prefix_len().into()).unwrap_or(0) - 1);
    let ipv6 = ranges.ipv6.map(|range| {
        u32::try_from(u128::MAX.checked_shr(range.prefix_len().into()).unwrap_or(0)).unwrap_or(u32::MAX - 1)
    });
    ipv4.into_iter().chain(ipv6).min().unwrap_or(GATEWAY)
}

/// The addresses of a device, or the gateway's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Addresses {
    /// Where the pool has IPv4.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipv4: Option<Ipv4Addr>,
    /// Where the pool has IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    /// All of them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = IpAddr> + use<> {
        self.ipv4.map(IpAddr::V4).into_iter().chain(self.ipv6.map(IpAddr::V6))
    }

    /// Whether `address` is one of them.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4 == Some(address),
            IpAddr::V6(address) => self.ipv6 == Some(address),
        }
    }
}

impl fmt::Display for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for address in self.iter() {
            write!(f, "{separator}{address}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// What [`Pool::assign`] gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Assigned {
    /// The addresses.
    pub(crate) addresses: Addresses,
    /// Whether the device has them for the first time.
    pub(crate) new: bool,
}

/// The content of `addresses.json`: the number of each device.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Saved {
    version: Version1,
    devices: BTreeMap<Token, u32>,
}

/// Every address of the pool belongs to a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "no address is left: all {devices} of the pool belong to devices; widen `pool`, or take old devices out of addresses.json"
)]
pub(crate) struct Exhausted {
    devices: usize,
}

/// Why kept numbers cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SavedError {
    /// Two devices with one number.
    #[error("the devices {other} and {device} both have the number {number}; take one of them out")]
    Twice {
        /// One.
        device: Token,
        /// The other.
        other: Token,
        /// The number.
        number: u32,
    },
    /// A number that is no device's.
    #[error("the device {device} has the number {number}, expected at least 2; take it out")]
    Reserved {
        /// The device.
        device: Token,
        /// The number.
        number: u32,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(ipv4: &str, ipv6: &str) -> config::Pool {
        config::Pool { ipv4: ipv4.parse().ok(), ipv6: ipv6.parse().ok() }
    }

    fn device(number: u32) -> Token {
        format!("dev-{number}").parse().unwrap()
    }

    #[test]
    fn the_gateway_comes_first_and_a_device_keeps_its_addresses() {
        let mut pool = Pool::new(ranges("10.99.0.0/16", "fd99::/64"), Saved::default()).unwrap();
        assert_eq!(pool.gateway().ipv4, Some("10.99.0.1".parse().unwrap()));
        assert_eq!(pool.gateway().ipv6, Some("fd99::1".parse().unwrap()));
        let first = pool.assign(&device(7)).unwrap();
        assert!(first.new);
        assert_eq!(first.addresses.ipv4, Some("10.99.0.2".parse().unwrap()));
        assert_eq!(first.addresses.ipv6, Some("fd99::2".parse().unwrap()));
        assert_eq!(pool.assign(&device(7)).unwrap(), Assigned { new: false, ..first });
    }

    #[test]
    fn what_is_kept_survives_in_json() {
        let mut pool = Pool::new(ranges("10.99.0.0/16", ""), Saved::default()).unwrap();
        let (one, two) = (pool.assign(&device(1)).unwrap(), pool.assign(&device(2)).unwrap());
        let text = serde_json::to_string(&pool.saved()).unwrap();
        assert_eq!(text, r#"{"version":1,"devices":{"dev-1":2,"dev-2":3}}"#);
        let mut again = Pool::new(ranges("10.99.0.0/16", "fd99::/64"), serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.assign(&device(2)).unwrap().addresses.ipv4, two.addresses.ipv4);
        assert_eq!(again.assign(&device(1)).unwrap().addresses.ipv4, one.addresses.ipv4);
    }

    #[test]
    fn a_full_pool_refuses_and_the_old_devices_stay() {
        let mut pool = Pool::new(ranges("10.0.0.0/29", ""), Saved::default()).unwrap();
        for number in 0..pool.capacity() {
            pool.assign(&device(number)).unwrap();
        }
        assert_eq!(pool.capacity(), 5);
        assert_eq!(pool.assign(&device(99)), Err(Exhausted { devices: 5 }));
        assert!(pool.assign(&device(0)).is_ok());
        assert_eq!(last_number(&ranges("10.0.0.0/29", "")), 6, "10.0.0.7 is the broadcast address");
        assert_eq!(last_number(&ranges("", "fd00::/126")), 3);
        assert_eq!(last_number(&ranges("", "fd00::/16")), u32::MAX - 1);
    }

    #[test]
    fn a_free_number_below_the_highest_is_found() {
        let saved = serde_json::from_str(r#"{"version":1,"devices":{"a":6,"b":2,"c":4}}"#).unwrap();
        let mut pool = Pool::new(ranges("10.0.0.0/29", ""), saved).unwrap();
        let mut got: Vec<_> = (0..2).map(|n| pool.assign(&device(n)).unwrap().addresses.ipv4.unwrap()).collect();
        got.sort();
        assert_eq!(got, ["10.0.0.3".parse::<Ipv4Addr>().unwrap(), "10.0.0.5".parse().unwrap()]);
        assert!(pool.assign(&device(9)).is_err());
    }

    #[test]
    fn a_contradictory_file_is_refused() {
        for (text, word) in
            [(r#"{"version":1,"devices":{"a":2,"b":2}}"#, "both"), (r#"{"version":1,"devices":{"a":1}}"#, "at least 2")]
        {
            let saved = serde_json::from_str(text).unwrap();
            assert!(Pool::new(ranges("10.0.0.0/24", ""), saved).unwrap_err().to_string().contains(word));
        }
        assert!(serde_json::from_str::<Saved>(r#"{"version":2,"devices":{}}"#).is_err());
    }

    proptest! {
        #[test]
        fn addresses_are_unique_stable_and_in_range(
            asked in prop::collection::vec(0..40_u32, 0..120),
            restart_after in 0..120_usize,
            prefix in 27..=30_u8,
        ) {
            let ranges = ranges(&format!("10.0.0.0/{prefix}"), "fd99::/64");
            let mut pool = Pool::new(ranges, Saved::default()).unwrap();
            let mut seen: HashMap<u32, Addresses> = HashMap::new();
            for (step, number) in asked.into_iter().enumerate() {
                if step == restart_after {
                    pool = Pool::new(ranges, pool.saved()).unwrap();
                }
                let Ok(assigned) = pool.assign(&device(number)) else {
                    prop_assert_eq!(seen.len(), pool.capacity() as usize);
                    prop_assert!(!seen.contains_key(&number));
                    continue;
                };
                prop_assert!(assigned.addresses.iter().all(|address| ranges.contains(address)));
                prop_assert!(assigned.addresses != pool.gateway());
                prop_assert_eq!(*seen.entry(number).or_insert(assigned.addresses), assigned.addresses);
            }
            let unique: HashSet<_> = seen.values().flat_map(Addresses::iter).collect();
            prop_assert_eq!(unique.len(), seen.len() * 2);
        }
    }
}
