//! Ranges of addresses that a tunnel reaches (RFC 9484 §4.7.3).

use std::net::IpAddr;

use ipnet::IpNet;

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

    /// The fewest prefixes that cover exactly this range, for routing tables.
    #[must_use]
    pub fn prefixes(&self) -> Vec<IpNet> {
        match (self.start, self.end) {
            (IpAddr::V4(start), IpAddr::V4(end)) => ipnet::Ipv4Subnets::new(start, end, 0).map(IpNet::V4).collect(),
            (IpAddr::V6(start), IpAddr::V6(end)) => ipnet::Ipv6Subnets::new(start, end, 0).map(IpNet::V6).collect(),
            _ => Vec::new(),
        }
    }
}
