//! Which device has which addresses: a number per device, the same for ever, and an address of each family from it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use m2m_protocol::Version1;
use m2m_protocol::names::Token;

use crate::config::{self, Ranges};

/// The numbers of all devices that ever connected. The first ones are the gateways'.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    ranges: config::Ranges,
    own: u32,
    reserved: u32,
    last: u32,
    numbers: BTreeMap<Token, u32>,
    devices: HashMap<u32, Token>,
    /// The devices that have a number which the ranges do not reach.
    beyond: BTreeMap<Token, u32>,
    cursor: u32,
}

impl Pool {
    /// A pool in which the devices of `saved` keep their numbers. A number that the ranges do not reach is kept until its
    /// device comes, which then gets another one: another gateway may have been given wider ranges already.
    ///
    /// # Errors
    /// [`SavedError`] when `saved` gives a number twice, or a gateway's.
    pub(crate) fn new(config: &config::Pool, saved: Saved) -> Result<Self, SavedError> {
        let mut pool = Self {
            ranges: config.ranges,
            own: config.gateway,
            reserved: config.reserved,
            last: config.ranges.last_number(),
            numbers: BTreeMap::new(),
            devices: HashMap::new(),
            beyond: BTreeMap::new(),
            cursor: config.reserved + 1,
        };
        for (device, number) in saved.devices {
            if number <= pool.reserved {
                return Err(SavedError::Reserved { device, number, first: pool.reserved + 1 });
            }
            if number > pool.last {
                pool.beyond.insert(device, number);
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

    /// The addresses that `device` has.
    pub(crate) fn find(&self, device: &Token) -> Option<Addresses> {
        self.numbers.get(device).map(|number| self.addresses(*number))
    }

    /// The addresses of `device`: those that it had before, or free ones.
    ///
    /// # Errors
    /// [`Exhausted`] when every number is taken.
    pub(crate) fn assign(&mut self, device: &Token) -> Result<Assigned, Exhausted> {
        if let Some(addresses) = self.find(device) {
            return Ok(Assigned { addresses, new: false });
        }
        let number = self.free_number().ok_or(Exhausted { devices: self.numbers.len() })?;
        if let Some(former) = self.beyond.remove(device) {
            log::warn!("device {device} had number {former}, which the pool does not reach; it gets number {number}");
        }
        self.cursor = number + 1;
        self.numbers.insert(device.clone(), number);
        self.devices.insert(number, device.clone());
        Ok(Assigned { addresses: self.addresses(number), new: true })
    }

    /// The gateway's own addresses.
    pub(crate) fn gateway(&self) -> Addresses {
        self.addresses(self.own)
    }

    /// The number of devices that have addresses.
    pub(crate) fn assigned(&self) -> usize {
        self.numbers.len()
    }

    /// The number of devices for which there are addresses.
    pub(crate) fn capacity(&self) -> u32 {
        self.last - self.reserved
    }

    /// What has to be kept.
    pub(crate) fn saved(&self) -> Saved {
        let devices = self.numbers.iter().chain(&self.beyond).map(|(device, number)| (device.clone(), *number));
        Saved { version: Version1, devices: devices.collect() }
    }

    fn free_number(&self) -> Option<u32> {
        if self.numbers.len() >= usize::try_from(self.capacity()).unwrap_or(usize::MAX) {
            return None;
        }
        (self.cursor..=self.last)
            .chain(self.reserved + 1..self.cursor.min(self.last))
            .find(|number| !self.devices.contains_key(number))
    }

    fn addresses(&self, number: u32) -> Addresses {
        let Ranges { ipv4, ipv6 } = self.ranges;
        Addresses {
            ipv4: ipv4.map(|range| Ipv4Addr::from_bits(range.network().to_bits() + number)),
            ipv6: ipv6.map(|range| Ipv6Addr::from_bits(range.network().to_bits() + u128::from(number))),
        }
    }
}

/// The addresses of a device, or of a gateway.
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
    /// A number that is a gateway's.
    #[error(
        "the device {device} has the number {number}, expected at least {first} (pool.reserved); take it out, and it gets another one"
    )]
    Reserved {
        /// The device.
        device: Token,
        /// The number.
        number: u32,
        /// The first number that is not reserved for gateways.
        first: u32,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    fn ranges(ipv4: &str, ipv6: &str) -> config::Pool {
        let ranges = Ranges { ipv4: ipv4.parse().ok(), ipv6: ipv6.parse().ok() };
        config::Pool { ranges, gateway: 1, reserved: 1, book: None }
    }

    fn device(number: u32) -> Token {
        format!("dev-{number}").parse().unwrap()
    }

    #[test]
    fn the_gateway_comes_first_and_a_device_keeps_its_addresses() {
        let mut pool = Pool::new(&ranges("10.99.0.0/16", "fd99::/64"), Saved::default()).unwrap();
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
        let mut pool = Pool::new(&ranges("10.99.0.0/16", ""), Saved::default()).unwrap();
        let (one, two) = (pool.assign(&device(1)).unwrap(), pool.assign(&device(2)).unwrap());
        let text = serde_json::to_string(&pool.saved()).unwrap();
        assert_eq!(text, r#"{"version":1,"devices":{"dev-1":2,"dev-2":3}}"#);
        let mut again = Pool::new(&ranges("10.99.0.0/16", "fd99::/64"), serde_json::from_str(&text).unwrap()).unwrap();
        assert_eq!(again.assign(&device(2)).unwrap().addresses.ipv4, two.addresses.ipv4);
        assert_eq!(again.assign(&device(1)).unwrap().addresses.ipv4, one.addresses.ipv4);
    }

    #[test]
    fn a_full_pool_refuses_and_the_old_devices_stay() {
        let mut pool = Pool::new(&ranges("10.0.0.0/29", ""), Saved::default()).unwrap();
        for number in 0..pool.capacity() {
            pool.assign(&device(number)).unwrap();
        }
        assert_eq!(pool.capacity(), 5);
        assert_eq!(pool.assign(&device(99)), Err(Exhausted { devices: 5 }));
        assert!(pool.assign(&device(0)).is_ok());
    }

    #[test]
    fn a_free_number_below_the_highest_is_found() {
        let saved = serde_json::from_str(r#"{"version":1,"devices":{"a":6,"b":2,"c":4}}"#).unwrap();
        let mut pool = Pool::new(&ranges("10.0.0.0/29", ""), saved).unwrap();
        let mut got: Vec<_> = (0..2).map(|n| pool.assign(&device(n)).unwrap().addresses.ipv4.unwrap()).collect();
        got.sort();
        assert_eq!(got, ["10.0.0.3".parse::<Ipv4Addr>().unwrap(), "10.0.0.5".parse().unwrap()]);
        assert!(pool.assign(&device(9)).is_err());
    }

    #[test]
    fn gateways_have_numbers_that_no_device_gets() {
        let config = config::Pool { gateway: 2, reserved: 4, ..ranges("10.0.0.0/29", "fd99::/64") };
        let mut pool = Pool::new(&config, Saved::default()).unwrap();
        assert_eq!(pool.gateway().ipv4, Some("10.0.0.2".parse().unwrap()));
        assert_eq!(pool.capacity(), 2);
        let mut got: Vec<_> = (0..2).map(|n| pool.assign(&device(n)).unwrap().addresses.ipv4.unwrap()).collect();
        got.sort();
        assert_eq!(got, ["10.0.0.5".parse::<Ipv4Addr>().unwrap(), "10.0.0.6".parse().unwrap()]);
        assert!(pool.assign(&device(2)).is_err());

        let saved = serde_json::from_str(r#"{"version":1,"devices":{"a":4}}"#).unwrap();
        let words = Pool::new(&config, saved).unwrap_err().to_string();
        assert!(words.contains("device a") && words.contains("at least 5"), "{words}");
    }

    #[test]
    fn a_number_out_of_reach_is_kept_until_its_device_comes() {
        let saved = serde_json::from_str::<Saved>(r#"{"version":1,"devices":{"a":3,"b":300,"c":301}}"#).unwrap();
        let narrow = ranges("10.0.0.0/24", "");
        let mut pool = Pool::new(&narrow, saved.clone()).unwrap();
        assert_eq!(pool.saved(), saved);
        assert_eq!(pool.find(&"b".parse().unwrap()), None);
        assert!(pool.assign(&"b".parse().unwrap()).unwrap().new);
        let text = serde_json::to_string(&pool.saved()).unwrap();
        assert_eq!(text, r#"{"version":1,"devices":{"a":3,"b":4,"c":301}}"#);
        let wide = Pool::new(&ranges("10.0.0.0/23", ""), pool.saved()).unwrap();
        assert_eq!(wide.find(&"c".parse().unwrap()).unwrap().ipv4, Some("10.0.1.45".parse().unwrap()));
    }

    #[test]
    fn a_contradictory_file_is_refused() {
        for (text, word) in
            [(r#"{"version":1,"devices":{"a":2,"b":2}}"#, "both"), (r#"{"version":1,"devices":{"a":1}}"#, "at least 2")]
        {
            let saved = serde_json::from_str(text).unwrap();
            assert!(Pool::new(&ranges("10.0.0.0/24", ""), saved).unwrap_err().to_string().contains(word));
        }
        assert!(serde_json::from_str::<Saved>(r#"{"version":2,"devices":{}}"#).is_err());
    }

    proptest! {
        #[test]
        fn addresses_are_unique_stable_and_in_range(
            asked in prop::collection::vec(0..40_u32, 0..120),
            restart_after in 0..120_usize,
            prefix in 27..=30_u8,
            (gateway, reserved) in (1..=2_u32).prop_flat_map(|reserved| (1..=reserved, Just(reserved))),
        ) {
            let ranges =
                config::Pool { gateway, reserved, ..ranges(&format!("10.0.0.0/{prefix}"), "fd99::/64") };
            let mut pool = Pool::new(&ranges, Saved::default()).unwrap();
            let mut seen: HashMap<u32, Addresses> = HashMap::new();
            for (step, number) in asked.into_iter().enumerate() {
                if step == restart_after {
                    pool = Pool::new(&ranges, pool.saved()).unwrap();
                }
                let Ok(assigned) = pool.assign(&device(number)) else {
                    prop_assert_eq!(seen.len(), pool.capacity() as usize);
                    prop_assert!(!seen.contains_key(&number));
                    continue;
                };
                prop_assert!(assigned.addresses.iter().all(|address| ranges.ranges.contains(address)));
                prop_assert!(assigned.addresses.ipv4 > Some(Ipv4Addr::from_bits(0x0a00_0000 + reserved)));
                prop_assert_eq!(*seen.entry(number).or_insert(assigned.addresses), assigned.addresses);
            }
            let unique: HashSet<_> = seen.values().flat_map(Addresses::iter).collect();
            prop_assert_eq!(unique.len(), seen.len() * 2);
        }
    }
}
