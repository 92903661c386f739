//! What the gateway reads in IP packets, and what it says about them: ICMP (RFC 792, RFC 1191) and ICMPv6 (RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Source and destination of an IP packet; `None` if it is none, or is cut.
pub(crate) fn endpoints(packet: &[u8]) -> Option<(IpAddr, IpAddr)> {
    match packet.first()? >> 4 {
        4 => {
            let header = packet.first_chunk::<20>()?;
            let header_length = usize::from(header[0] & 0xf) * 4;
            let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
            if header_length < 20 || length < header_length || length != packet.len() {
                return None;
            }
            Some((ipv4(header, 12), ipv4(header, 16)))
        }
        6 => {
            let header = packet.first_chunk::<40>()?;
            let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
            if length + 40 != packet.len() {
                return None;
            }
            Some((ipv6(header, 8), ipv6(header, 24)))
        }
        _ => None,
    }
}

/// What is wrong with a packet's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Problem {
    /// The device of the destination is not connected.
    Unreachable,
    /// The policy does not let it through.
    Prohibited,
    /// It is larger than the path carries.
    TooBig {
        /// What the path carries, in bytes.
        mtu: usize,
    },
}

/// An ICMP packet from `from` to the sender of `packet`, which must have passed [`endpoints`]. `None` where no ICMP may answer: to another
/// ICMP error, to a fragment other than the first, to and from what is no single host (RFC 1122 section 3.2.2, RFC 4443
/// section 2.4).
pub(crate) fn icmp(packet: &[u8], problem: Problem, from: IpAddr) -> Option<Vec<u8>> {
    let (source, destination) = endpoints(packet)?;
    let nobody = |address: IpAddr| address.is_multicast() || address.is_unspecified() || address.is_loopback();
    if nobody(source) || nobody(destination) {
        return None;
    }
    match (source, from) {
        (IpAddr::V4(to), IpAddr::V4(from)) => icmp4(packet, problem, from, to),
        (IpAddr::V6(to), IpAddr::V6(from)) => icmp6(packet, problem, from, to),
        _ => None,
    }
}

fn icmp4(packet: &[u8], problem: Problem, from: Ipv4Addr, to: Ipv4Addr) -> Option<Vec<u8>> {
    const UNREACHABLE: u8 = 3;
    const TYPES_THAT_ASK: [u8; 5] = [0, 8, 13, 14, 42];
    let header_length = usize::from(packet[0] & 0xf) * 4;
    let later_fragment = u16::from_be_bytes([packet[6], packet[7]]) & 0x1fff != 0;
    let error = packet[9] == ICMP && !TYPES_THAT_ASK.contains(packet.get(header_length)?);
    if later_fragment || error || to.is_broadcast() {
        return None;
    }
    let (code, value) = match problem {
        Problem::Unreachable => (1, 0),
        Problem::Prohibited => (13, 0),
        Problem::TooBig { mtu } => (4, u16::try_from(mtu).unwrap_or(u16::MAX)),
    };
    // RFC 1812 section 4.3.2.3: as much as fits 576 bytes.
    let quoted = &packet[..packet.len().min(576 - 28)];
    let mut reply = vec![0x45, 0xc0, 0, 0, 0, 0, 0, 0, 64, ICMP, 0, 0];
    reply[2..4].copy_from_slice(&u16::try_from(28 + quoted.len()).ok()?.to_be_bytes());
    reply.extend(from.octets());
    reply.extend(to.octets());
    let sum = checksum(&[&reply]);
    reply[10..12].copy_from_slice(&sum);

    let mut message = vec![UNREACHABLE, code, 0, 0, 0, 0];
    message.extend(value.to_be_bytes());
    message.extend(quoted);
    let sum = checksum(&[&message]);
    message[2..4].copy_from_slice(&sum);
    reply.extend(message);
    Some(reply)
}

fn icmp6(packet: &[u8], problem: Problem, from: Ipv6Addr, to: Ipv6Addr) -> Option<Vec<u8>> {
    const FIRST_INFORMATIONAL: u8 = 128;
    if packet[6] == ICMPV6 && *packet.get(40)? < FIRST_INFORMATIONAL {
        return None;
    }
    let (kind, code, value) = match problem {
        Problem::Unreachable => (1, 3, 0),
        Problem::Prohibited => (1, 1, 0),
        Problem::TooBig { mtu } => (2, 0, u32::try_from(mtu).unwrap_or(u32::MAX)),
    };
    // RFC 4443 section 2.4: as much as fits the least MTU.
    let quoted = &packet[..packet.len().min(1280 - 48)];
    let length = u16::try_from(8 + quoted.len()).ok()?;
    let mut message: Vec<u8> = vec![kind, code, 0, 0];
    message.extend(u32::to_be_bytes(value));
    message.extend(quoted);
    let pseudo_header = [0, 0, length.to_be_bytes()[0], length.to_be_bytes()[1], 0, 0, 0, ICMPV6];
    let sum = checksum(&[&from.octets(), &to.octets(), &pseudo_header, &message]);
    message[2..4].copy_from_slice(&sum);

    let mut reply = vec![0x60, 0, 0, 0, length.to_be_bytes()[0], length.to_be_bytes()[1], ICMPV6, 64];
    reply.extend(from.octets());
    reply.extend(to.octets());
    reply.extend(message);
    Some(reply)
}

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

fn ipv4(header: &[u8; 20], at: usize) -> IpAddr {
    IpAddr::from([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

fn ipv6(header: &[u8; 40], at: usize) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    IpAddr::from(octets)
}

/// The Internet checksum (RFC 1071). All parts but the last have an even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let mut sum: u32 = 0;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap_or(u16::MAX)).to_be_bytes()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn udp4(length: u16) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 20, 0, 80, 10, 99, 0, 2];
        packet.resize(usize::from(length), 0);
        packet[2..4].copy_from_slice(&length.to_be_bytes());
        packet
    }

    fn udp6(length: u16) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
        packet.extend("fd20::80".parse::<Ipv6Addr>().unwrap().octets());
        packet.extend("fd99::2".parse::<Ipv6Addr>().unwrap().octets());
        packet.resize(usize::from(length), 0);
        packet[4..6].copy_from_slice(&(length - 40).to_be_bytes());
        packet
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_answer_goes_back_with_right_checksums() {
        let reply = icmp(&udp4(1400), Problem::TooBig { mtu: 1300 }, ip("10.99.0.2")).unwrap();
        assert_eq!(endpoints(&reply), Some((ip("10.99.0.2"), ip("10.20.0.80"))));
        assert_eq!((reply.len(), &reply[20..22], &reply[26..28]), (576, &[3, 4][..], &1300_u16.to_be_bytes()[..]));
        assert_eq!((checksum(&[&reply[..20]]), checksum(&[&reply[20..]])), ([0, 0], [0, 0]));

        let reply = icmp(&udp6(1400), Problem::TooBig { mtu: 1300 }, ip("fd99::2")).unwrap();
        assert_eq!(endpoints(&reply), Some((ip("fd99::2"), ip("fd20::80"))));
        assert_eq!((reply.len(), &reply[40..42], &reply[44..48]), (1280, &[2, 0][..], &1300_u32.to_be_bytes()[..]));
        let pseudo_header = [&reply[8..40], &[0, 0, reply[4], reply[5], 0, 0, 0, 58]].concat();
        assert_eq!(checksum(&[&pseudo_header, &reply[40..]]), [0, 0]);
    }

    #[test]
    fn no_answer_to_errors_fragments_and_groups() {
        let unreachable = |packet: &[u8], from| icmp(packet, Problem::Unreachable, ip(from));
        let first = unreachable(&udp4(60), "10.99.0.2").unwrap();
        assert_eq!(unreachable(&first, "10.20.0.80"), None);
        let first = unreachable(&udp6(60), "fd99::2").unwrap();
        assert_eq!(unreachable(&first, "fd20::80"), None);
        let mut fragment = udp4(60);
        fragment[7] = 1;
        assert_eq!(unreachable(&fragment, "10.99.0.2"), None);
        let mut multicast = udp4(60);
        multicast[16] = 224;
        assert_eq!(unreachable(&multicast, "10.99.0.2"), None);
        assert_eq!(unreachable(&udp4(60), "fd99::2"), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(packet in prop::collection::vec(any::<u8>(), 0..100), four: bool) {
            let from = if four { ip("10.99.0.2") } else { ip("fd99::2") };
            for problem in [Problem::Unreachable, Problem::Prohibited, Problem::TooBig { mtu: 1200 }] {
                if let Some(reply) = icmp(&packet, problem, from) {
                    prop_assert!(endpoints(&reply).is_some());
                }
            }
        }

        #[test]
        fn cut_packets_are_none(length in 0..60_usize) {
            prop_assert!(endpoints(&udp4(60)[..length]).is_none());
            prop_assert!(endpoints(&udp6(60)[..length]).is_none());
        }
    }
}
