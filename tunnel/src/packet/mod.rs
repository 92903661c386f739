//! IP packets: what a tunnel's end must read and change in them.

pub mod ecn;
pub mod icmp;

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

/// The smallest MTU in bytes of an IPv6 link (RFC 8200 §5).
pub const IPV6_MIN_MTU: usize = 1280;

const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;

const TCP: u8 = 6;
const UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// Where a packet comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The sender.
    pub source: IpAddr,
    /// The receiver.
    pub destination: IpAddr,
}

impl Header {
    /// Reads the header of a packet that is whole: nothing is missing, and nothing follows. `None` for any other bytes.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        match packet.first()? >> 4 {
            4 => {
                let header: &[u8; V4_HEADER] = packet.first_chunk()?;
                let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
                let header_length = v4_header_length(packet);
                if header_length < V4_HEADER || length < header_length || length != packet.len() {
                    return None;
                }
                let [source, destination] =
                    [12, 16].map(|at| IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]]));
                Some(Self { source, destination })
            }
            6 => {
                let header: &[u8; V6_HEADER] = packet.first_chunk()?;
                let length = V6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
                if length != packet.len() {
                    return None;
                }
                let source: [u8; 16] = *header[8..].first_chunk()?;
                let destination: [u8; 16] = *header[24..].first_chunk()?;
                Some(Self { source: source.into(), destination: destination.into() })
            }
            _ => None,
        }
    }
}

/// Addresses and prefixes, to be asked for each packet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AddressSet {
    v4: Vec<(u32, u32)>,
    v6: Vec<(u128, u128)>,
}

impl AddressSet {
    /// Whether `address` is one of them.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        // An endpoint has a handful of addresses: looking at all of them is the fastest way.
        match address {
            IpAddr::V4(address) => {
                let address = address.to_bits();
                self.v4.iter().any(|(network, mask)| address & mask == *network)
            }
            IpAddr::V6(address) => {
                let address = address.to_bits();
                self.v6.iter().any(|(network, mask)| address & mask == *network)
            }
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

impl FromIterator<IpNet> for AddressSet {
    fn from_iter<T: IntoIterator<Item = IpNet>>(prefixes: T) -> Self {
        let mut set = Self::default();
        for prefix in prefixes {
            match prefix {
                IpNet::V4(prefix) => set.v4.push((prefix.network().to_bits(), prefix.netmask().to_bits())),
                IpNet::V6(prefix) => set.v6.push((prefix.network().to_bits(), prefix.netmask().to_bits())),
            }
        }
        set
    }
}

/// A number that is the same for all packets of a flow: addresses, protocol and, where they are in sight, ports.
#[must_use]
pub fn flow_hash(packet: &[u8]) -> u32 {
    let (addresses, transport) = match packet.first().map(|byte| byte >> 4) {
        Some(4) if packet.len() >= V4_HEADER => {
            let is_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
            let ports = if is_fragment { packet.len() } else { v4_header_length(packet) };
            (&packet[12..20], (packet[9], ports))
        }
        Some(6) if packet.len() >= V6_HEADER => (&packet[8..40], (packet[6], V6_HEADER)),
        _ => return 0,
    };
    let (protocol, ports) = transport;
    let ports = match protocol {
        TCP | UDP => packet.get(ports..ports + 4).unwrap_or_default(),
        _ => &[],
    };
    let words = addresses.chunks_exact(4).chain(ports.chunks_exact(4));
    let hash = words.filter_map(|word| word.first_chunk()).fold(u64::from(protocol), |hash, word| {
        (hash.rotate_left(5) ^ u64::from(u32::from_ne_bytes(*word))).wrapping_mul(0x517c_c1b7_2722_0a95)
    });
    (hash >> 32) as u32
}

/// The checksum after one of the words that it covers changed (RFC 1624 §3).
fn update_checksum(checksum: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!checksum) + u32::from(!before) + u32::from(after);
    !fold(sum)
}

/// The Internet checksum (RFC 1071), beginning with the sum `initial`.
fn checksum(bytes: &[u8], initial: u32) -> u16 {
    let (words, rest) = bytes.as_chunks::<2>();
    let sum = words.iter().fold(initial, |sum, word| sum + u32::from(u16::from_be_bytes(*word)));
    let last = rest.first().map_or(0, |byte| u32::from(*byte) << 8);
    !fold(sum + last)
}

fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The sum of IPv6's pseudo-header (RFC 8200 §8.1).
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: usize, protocol: u8) -> u32 {
    let addresses = source.segments().into_iter().chain(destination.segments());
    addresses.map(u32::from).sum::<u32>() + length as u32 + u32::from(protocol)
}

fn v4_header_length(packet: &[u8]) -> usize {
    usize::from(packet[0] & 0x0f) * 4
}

/// What a packet carries behind its headers: protocol and offset. `None` for fragments but the first, and for broken
/// chains of extension headers.
pub(crate) fn upper_layer(packet: &[u8]) -> Option<(u8, usize)> {
    let (protocol, offset) = walk(packet)?;
    Some((protocol, offset?))
}

/// The IP protocol of a packet: the one behind its extension headers (RFC 9484 §4.8), of a fragment that which the fragment names.
/// `None` for broken chains of extension headers, and for fragments that name nothing but the next of them. The packet must be one that
/// [`Header::parse`] accepts.
#[must_use]
pub fn ip_protocol(packet: &[u8]) -> Option<u8> {
    walk(packet).map(|(protocol, _)| protocol).filter(|protocol| !is_extension_header(*protocol))
}

/// Whether an IP protocol number is that of an extension header of IPv6, behind which the protocol stands.
#[must_use]
pub const fn is_extension_header(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Whether an IP protocol is the Internet Control Message Protocol, of either version.
#[must_use]
pub const fn is_icmp(protocol: u8) -> bool {
    matches!(protocol, icmp::ICMP | icmp::ICMPV6)
}

/// The protocol behind the headers, and where that begins unless the packet is a fragment other than the first.
fn walk(packet: &[u8]) -> Option<(u8, Option<usize>)> {
    if packet.first()? >> 4 == 4 {
        let fragment_offset = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x1fff;
        return Some((*packet.get(9)?, (fragment_offset == 0).then(|| v4_header_length(packet))));
    }
    let mut protocol = *packet.get(6)?;
    let mut offset = V6_HEADER;
    loop {
        match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {
                protocol = *packet.get(offset)?;
                offset += 8 + usize::from(*packet.get(offset + 1)?) * 8;
            }
            // RFC 4302 §2.2 counts in other units than IPv6 does.
            AUTHENTICATION => {
                protocol = *packet.get(offset)?;
                offset += (2 + usize::from(*packet.get(offset + 1)?)) * 4;
            }
            FRAGMENT => {
                let fragment = packet.get(offset..offset + 8)?;
                protocol = fragment[0];
                if u16::from_be_bytes([fragment[2], fragment[3]]) & 0xfff8 != 0 {
                    return Some((protocol, None));
                }
                offset += 8;
            }
            _ => return Some((protocol, Some(offset))),
        }
    }
}

/// Whether one machine is meant, which may be told of errors (RFC 1122 §3.2.2, RFC 4443 §2.4).
fn is_unicast(address: IpAddr) -> bool {
    match address {
        // From 224.0.0.0 on there are groups, class E and the broadcast address.
        IpAddr::V4(address) => !(address.is_unspecified() || address.is_loopback() || address.octets()[0] >= 224),
        IpAddr::V6(address) => !(address.is_unspecified() || address.is_multicast()),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    /// A UDP packet from 10.99.0.2 to 10.20.0.80, time to live 64.
    pub(crate) fn v4(payload: &[u8]) -> Vec<u8> {
        let length = (V4_HEADER + 8 + payload.len()) as u16;
        let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 17, 0, 0, 10, 99, 0, 2, 10, 20, 0, 80];
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        let sum = checksum(&packet, 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend([0, 53, 0, 53]);
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    /// A UDP packet from fd99::2 to fd20::80, hop limit 64.
    pub(crate) fn v6(payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([17, 64]);
        packet.extend("fd99::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd20::80".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend([0, 53, 0, 53]);
        packet.extend((8 + payload.len() as u16).to_be_bytes());
        packet.extend([0, 0]);
        packet.extend(payload);
        packet
    }

    #[test]
    fn addresses_are_read_from_whole_packets_only() {
        let header = Header::parse(&v4(b"payload")).unwrap();
        assert_eq!((header.source, header.destination), ("10.99.0.2".parse().unwrap(), "10.20.0.80".parse().unwrap()));
        let header = Header::parse(&v6(b"payload")).unwrap();
        assert_eq!((header.source, header.destination), ("fd99::2".parse().unwrap(), "fd20::80".parse().unwrap()));
        for packet in [v4(b"payload"), v6(b"payload")] {
            for cut in 0..packet.len() {
                assert_eq!(Header::parse(&packet[..cut]), None);
            }
            assert_eq!(Header::parse(&[&packet[..], &[0]].concat()), None);
        }
        let mut short_header = v4(b"");
        short_header[0] = 0x44;
        assert_eq!(Header::parse(&short_header), None);
        assert_eq!(Header::parse(&[0x55; 40]), None);
    }

    #[test]
    fn sets_hold_addresses_and_prefixes() {
        let set: AddressSet = ["10.99.0.2/32", "fd99:1::/64", "0.0.0.0/0"][..2]
            .iter()
            .map(|prefix| prefix.parse::<IpNet>().unwrap())
            .collect();
        for (address, expected) in [
            ("10.99.0.2", true),
            ("10.99.0.3", false),
            ("fd99:1::99", true),
            ("fd99:2::99", false),
            ("::ffff:10.99.0.2", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), expected, "{address}");
        }
        let all: AddressSet = ["0.0.0.0/0", "::/0"].iter().map(|prefix| prefix.parse::<IpNet>().unwrap()).collect();
        assert!(all.contains("203.0.113.1".parse().unwrap()) && all.contains("2001:db8::1".parse().unwrap()));
        assert!(AddressSet::default().is_empty() && !all.is_empty());
    }

    #[test]
    fn the_upper_layer_is_behind_all_headers() {
        assert_eq!(upper_layer(&v4(b"")), Some((17, 20)));
        assert_eq!(upper_layer(&v6(b"")), Some((17, 40)));
        let mut chained = v6(b"");
        chained[6] = HOP_BY_HOP;
        chained.splice(40..40, [FRAGMENT, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 1, 0, 0, 0, 9]);
        assert_eq!(upper_layer(&chained), Some((17, 56)));
        chained[51] = 8;
        assert_eq!((upper_layer(&chained), ip_protocol(&chained)), (None, Some(17)));
        let mut fragment = v4(b"");
        fragment[7] = 1;
        assert_eq!((upper_layer(&fragment), ip_protocol(&fragment)), (None, Some(17)));
        let mut authenticated = v6(b"");
        authenticated[6] = AUTHENTICATION;
        authenticated.splice(40..40, [&[17, 4, 0, 0][..], &[0; 20]].concat());
        assert_eq!(upper_layer(&authenticated), Some((17, 64)));
    }

    /// RFC 1071 §3, and what §2 says of any sum: bytes may be swapped and words be in any order.
    #[test]
    fn checksum_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(checksum(&bytes, 0), !0xddf2);
        assert_eq!(checksum(&[0x01, 0x00, 0x03, 0xf2, 0xf5, 0xf4, 0xf7, 0xf6], 0), !0xf2dd);
        assert_eq!(checksum(&[0xf6, 0xf7, 0x00, 0x01, 0xf4, 0xf5, 0xf2, 0x03], 0), !0xddf2);
        assert_eq!(checksum(&bytes[..7], 0), !0xdcfb, "an odd byte is filled up with 0");
        assert_eq!(checksum(&[0xff; 65535], 0), !0xff00, "no sum runs over");
    }

    /// RFC 1624 §4, whose equation 2 gives 0xffff.
    #[test]
    fn updated_checksum_of_rfc_1624() {
        assert_eq!(update_checksum(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(mut bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = Header::parse(&bytes);
            let _ = upper_layer(&bytes);
            let _ = icmp::error(&bytes, icmp::Cause::NoRoute, Ipv4Addr::LOCALHOST.into());
            ecn::set(&mut bytes, ecn::Ecn::Ce);
        }

        #[test]
        fn sets_hold_what_their_prefixes_hold(
            prefixes in proptest::collection::vec((any::<u8>(), 0..=32u8, any::<bool>()), 0..4),
            low: u8,
        ) {
            let address = |low: u8, v6: bool| -> IpAddr {
                if v6 { Ipv6Addr::from_bits(low.into()).into() } else { Ipv4Addr::from_bits(low.into()).into() }
            };
            let prefixes: Vec<IpNet> = prefixes
                .iter()
                .map(|(low, length, v6)| IpNet::new(address(*low, *v6), length + if *v6 { 96 } else { 0 }).unwrap())
                .collect();
            let set: AddressSet = prefixes.iter().copied().collect();
            for v6 in [false, true] {
                let address = address(low, v6);
                prop_assert_eq!(set.contains(address), prefixes.iter().any(|prefix| prefix.contains(&address)));
            }
        }

        #[test]
        fn updated_checksums_are_right(traffic_class: u8, id: u16) {
            let mut packet = v4(b"");
            packet[4..6].copy_from_slice(&id.to_be_bytes());
            packet[1] = traffic_class;
            packet[10..12].fill(0);
            let sum = checksum(&packet[..V4_HEADER], 0);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            ecn::set(&mut packet, ecn::Ecn::Ce);
            prop_assert_eq!(checksum(&packet[..V4_HEADER], 0), 0);
        }
    }
}
