//! The table `[pool]`.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Deserializer};

use super::Count;

/// The addresses for devices and gateways. Every gateway of a site has the same ones, except for [`Self::gateway`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PoolTable")]
pub(crate) struct Pool {
    /// Where the addresses are from: number 1 is the first one after a range's network address, and so on.
    pub(crate) ranges: Ranges,
    /// The number of this gateway's own addresses; at most [`Self::reserved`].
    pub(crate) gateway: u32,
    /// How many numbers, from 1, are gateways' and never a device's.
    pub(crate) reserved: u32,
    /// The address book that all gateways of the site use; without it, the gateway has one in `state_dir`.
    pub(crate) book: Option<PathBuf>,
}

/// A range of addresses of one family, or of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// The IPv4 range.
    pub(crate) ipv4: Option<Ipv4Net>,
    /// The IPv6 range.
    pub(crate) ipv6: Option<Ipv6Net>,
}

impl Ranges {
    /// Whether `address` lies in one of the ranges.
    pub(crate) fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => self.ipv4.is_some_and(|range| range.contains(&address)),
            IpAddr::V6(address) => self.ipv6.is_some_and(|range| range.contains(&address)),
        }
    }

    /// The ranges themselves, IPv4 first.
    pub(crate) fn prefixes(&self) -> impl Iterator<Item = IpNet> + use<> {
        self.ipv4.map(IpNet::V4).into_iter().chain(self.ipv6.map(IpNet::V6))
    }

    /// The highest number that has an address in every range; the last IPv4 address is the broadcast address.
    pub(crate) fn last_number(&self) -> u32 {
        let ipv4 = self.ipv4.map(|range| u32::MAX.checked_shr(range.prefix_len().into()).unwrap_or(0) - 1);
        let ipv6 = self.ipv6.map(|range| {
            u32::try_from(u128::MAX.checked_shr(range.prefix_len().into()).unwrap_or(0)).unwrap_or(u32::MAX - 1)
        });
        ipv4.into_iter().chain(ipv6).min().unwrap_or(1)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PoolTable {
    #[serde(default, deserialize_with = "ipv4_range")]
    ipv4: Option<Ipv4Net>,
    #[serde(default, deserialize_with = "ipv6_range")]
    ipv6: Option<Ipv6Net>,
    #[serde(default = "PoolTable::first")]
    gateway: Count,
    #[serde(default = "PoolTable::first")]
    reserved: Count,
    book: Option<PathBuf>,
}

impl PoolTable {
    fn first() -> Count {
        Count(1)
    }
}

impl TryFrom<PoolTable> for Pool {
    type Error = String;

    fn try_from(table: PoolTable) -> Result<Self, String> {
        if table.ipv4.is_none() && table.ipv6.is_none() {
            return Err("expected `ipv4`, `ipv6` or both".to_owned());
        }
        let ranges = Ranges { ipv4: table.ipv4, ipv6: table.ipv6 };
        let (Count(gateway), Count(reserved)) = (table.gateway, table.reserved);
        if gateway > reserved {
            return Err(format!("gateway: expected 1 to `reserved`, which is {reserved}, found {gateway}"));
        }
        let last = ranges.last_number();
        if reserved >= last {
            return Err(format!("reserved: expected less than {last}, the number of addresses, found {reserved}"));
        }
        if table.book.as_ref().is_some_and(|book| book.file_name().is_none()) {
            return Err("book: expected a file, such as \"/srv/m2mvpn/addresses.json\"".to_owned());
        }
        Ok(Self { ranges, gateway, reserved, book: table.book })
    }
}

fn ipv4_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv4Net>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<Ipv4Net>() {
        Ok(net) if net.trunc() == net && (8..=30).contains(&net.prefix_len()) => Ok(Some(net)),
        _ => Err(serde::de::Error::custom(
            "expected an IPv4 prefix of 8 to 30 bits without host bits, such as \"10.99.0.0/16\"",
        )),
    }
}

fn ipv6_range<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Ipv6Net>, D::Error> {
    let text = String::deserialize(deserializer)?;
    match text.parse::<Ipv6Net>() {
        Ok(net) if net.trunc() == net && (16..=126).contains(&net.prefix_len()) => Ok(Some(net)),
        _ => Err(serde::de::Error::custom(
            "expected an IPv6 prefix of 16 to 126 bits without host bits, such as \"fd99::/64\"",
        )),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_range_has_a_last_number() {
        let last = |ipv4: &str, ipv6: &str| Ranges { ipv4: ipv4.parse().ok(), ipv6: ipv6.parse().ok() }.last_number();
        assert_eq!(last("10.0.0.0/29", ""), 6, "10.0.0.7 is the broadcast address");
        assert_eq!(last("", "fd00::/126"), 3);
        assert_eq!(last("", "fd00::/16"), u32::MAX - 1);
        assert_eq!(last("10.0.0.0/8", "fd00::/126"), 3);
    }
}
