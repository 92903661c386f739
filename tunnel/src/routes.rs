//! Ranges of addresses that a tunnel reaches (RFC 9484 §4.7.3).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Subnets, Ipv6Subnets};

/// A range of addresses, both ends included, of one family.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpRange {
    start: IpAddr,
    end: IpAddr,
    protocol: u8,
}

impl IpRange {
    /// A range for one IP protocol (0 is all). `None` when the families differ or the end comes before the start.
    #[must_use]
    pub fn new(start: IpAddr, end: IpAddr, protocol: u8) -> Option<Self> {
        (start.is_ipv4() == end.is_ipv4() && start <= end).then_some(Self { start, end, protocol })
    }

    /// The whole prefix, for all protocols.
    #[must_use]
    pub fn from_prefix(prefix: IpNet) -> Self {
        Self { start: prefix.network(), end: prefix.broadcast(), protocol: 0 }
    }

    /// The first address.
    #[must_use]
    pub const fn start(&self) -> IpAddr {
        self.start
    }

    /// The last address.
    #[must_use]
    pub const fn end(&self) -> IpAddr {
        self.end
    }

    /// The IP protocol number that the range is for, 0 for all.
    #[must_use]
    pub const fn protocol(&self) -> u8 {
        self.protocol
    }

    /// Whether `address` lies in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // IpAddr orders every IPv4 address before every IPv6 address.
        self.start <= address && address <= self.end
    }

    /// The fewest prefixes that cover exactly this range, for routing tables.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(start), IpAddr::V6(end)) => Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }

    fn key(&self) -> (bool, u8, IpAddr) {
        (self.start.is_ipv6(), self.protocol, self.start)
    }
}

/// Whether ranges stand as RFC 9484 §4.7.3 demands: by family, protocol and start, those of one protocol apart.
#[must_use]
pub fn are_ordered(ranges: &[IpRange]) -> bool {
    ranges.windows(2).all(|pair| {
        let [before, after] = pair else { return true };
        let (family, protocol, _) = before.key();
        match (after.start.is_ipv6(), after.protocol).cmp(&(family, protocol)) {
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => before.end < after.start,
            std::cmp::Ordering::Greater => true,
        }
    })
}

/// The same addresses as `ranges`, in the order that RFC 9484 §4.7.3 demands: overlaps and neighbours of one protocol
/// merged, and what all protocols reach taken out of the ranges for single ones.
#[must_use]
pub fn normalize(mut ranges: Vec<IpRange>) -> Vec<IpRange> {
    ranges.sort_unstable_by_key(|range| (range.key(), range.end));
    let mut merged: Vec<IpRange> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if touches(last, &range) => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    let (all, single): (Vec<_>, Vec<_>) = merged.into_iter().partition(|range| range.protocol == 0);
    let rest = single.into_iter().flat_map(|range| without(range, &all));
    let mut ranges: Vec<IpRange> = all.iter().copied().chain(rest).collect();
    ranges.sort_unstable_by_key(IpRange::key);
    ranges
}

fn touches(before: &IpRange, after: &IpRange) -> bool {
    let same = (before.start.is_ipv6(), before.protocol) == (after.start.is_ipv6(), after.protocol);
    same && (after.start <= before.end || next(before.end) == Some(after.start))
}

/// What is left of `range` without `holes`, which are sorted and apart.
fn without(mut range: IpRange, holes: &[IpRange]) -> Vec<IpRange> {
    let mut left = Vec::new();
    for hole in holes {
        if hole.end < range.start || hole.start > range.end {
            continue;
        }
        if let Some(end) = previous(hole.start).filter(|end| *end >= range.start && hole.start > range.start) {
            left.push(IpRange { end, ..range });
        }
        match next(hole.end) {
            Some(start) if start <= range.end => range.start = start,
            _ => return left,
        }
    }
    left.push(range);
    left
}

fn next(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(Ipv4Addr::from_bits(address.to_bits().checked_add(1)?).into()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits().checked_add(1)?).into()),
    }
}

fn previous(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => Some(Ipv4Addr::from_bits(address.to_bits().checked_sub(1)?).into()),
        IpAddr::V6(address) => Some(Ipv6Addr::from_bits(address.to_bits().checked_sub(1)?).into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn range(start: &str, end: &str, protocol: u8) -> IpRange {
        IpRange::new(start.parse().unwrap(), end.parse().unwrap(), protocol).unwrap()
    }

    #[test]
    fn ends_must_fit_each_other() {
        let [low, high, v6] = ["10.0.0.1", "10.0.0.2", "::1"].map(|text| text.parse().unwrap());
        assert!(IpRange::new(high, low, 0).is_none());
        assert!(IpRange::new(low, v6, 0).is_none());
        assert!(IpRange::new(low, high, 0).is_some());
    }

    #[test]
    fn prefixes_cover_a_range() {
        let prefixes = range("10.0.0.1", "10.0.0.4", 0).prefixes();
        let expected: Vec<IpNet> =
            ["10.0.0.1/32", "10.0.0.2/31", "10.0.0.4/32"].map(|text| text.parse().unwrap()).into();
        assert_eq!(prefixes, expected);
        assert_eq!(IpRange::from_prefix("::/0".parse().unwrap()).prefixes(), ["::/0".parse().unwrap()]);
    }

    #[test]
    fn neighbours_merge_and_order_holds() {
        let ranges = normalize(vec![
            range("fd00::", "fd00::ffff", 0),
            range("10.0.0.0", "10.0.0.255", 6),
            range("10.0.1.0", "10.0.1.255", 0),
            range("10.0.0.64", "10.0.0.127", 0),
            range("10.0.0.128", "10.0.0.130", 0),
        ]);
        assert_eq!(
            ranges,
            [
                range("10.0.0.64", "10.0.0.130", 0),
                range("10.0.1.0", "10.0.1.255", 0),
                range("10.0.0.0", "10.0.0.63", 6),
                range("10.0.0.131", "10.0.0.255", 6),
                range("fd00::", "fd00::ffff", 0),
            ]
        );
    }

    fn any_range() -> impl Strategy<Value = IpRange> {
        (any::<bool>(), any::<u8>(), any::<u8>(), 0u8..3).prop_map(|(v6, one, other, protocol)| {
            let address = |low: u8| -> IpAddr {
                if v6 { Ipv6Addr::from_bits(low.into()).into() } else { Ipv4Addr::from_bits(low.into()).into() }
            };
            IpRange::new(address(one.min(other)), address(one.max(other)), protocol).unwrap()
        })
    }

    proptest! {
        #[test]
        fn normal_form_is_ordered_and_reaches_the_same(ranges in proptest::collection::vec(any_range(), 0..8)) {
            let normal = normalize(ranges.clone());
            prop_assert!(are_ordered(&normal));
            let reaches = |ranges: &[IpRange], address: IpAddr, protocol: u8| {
                ranges.iter().any(|range| range.contains(address) && (range.protocol == 0 || range.protocol == protocol))
            };
            for low in 0..=255u8 {
                for protocol in 1..3 {
                    for address in [IpAddr::V4(Ipv4Addr::from_bits(low.into())), Ipv6Addr::from_bits(low.into()).into()] {
                        prop_assert_eq!(reaches(&normal, address, protocol), reaches(&ranges, address, protocol));
                    }
                }
            }
            for (nth, one) in normal.iter().enumerate() {
                for other in &normal[nth + 1..] {
                    let overlap = one.start <= other.end && other.start <= one.end;
                    prop_assert!(!overlap || one.protocol != 0 && other.protocol != 0);
                }
            }
        }

        #[test]
        fn normal_form_is_its_own(ranges in proptest::collection::vec(any_range(), 0..8)) {
            let normal = normalize(ranges);
            prop_assert_eq!(normalize(normal.clone()), normal);
        }

        /// Whole families and their ends included, where there is no address before or behind.
        #[test]
        fn prefixes_cover_exactly_their_range(
            v6: bool,
            one in prop_oneof![Just(0), Just(u128::MAX), any::<u128>()],
            other in prop_oneof![Just(0), Just(u128::MAX), any::<u128>()],
        ) {
            let address = |bits: u128| -> IpAddr {
                if v6 { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits((bits >> 96) as u32).into() }
            };
            let range = IpRange::new(address(one.min(other)), address(one.max(other)), 0).unwrap();
            let prefixes = range.prefixes();
            prop_assert_eq!(prefixes.first().map(IpNet::network), Some(range.start));
            prop_assert_eq!(prefixes.last().map(IpNet::broadcast), Some(range.end));
            for pair in prefixes.windows(2) {
                prop_assert_eq!(next(pair[0].broadcast()), Some(pair[1].network()));
            }
            let back = normalize(prefixes.into_iter().rev().map(IpRange::from_prefix).collect());
            prop_assert_eq!(back, vec![range]);
        }
    }
}
