//! An IP packet and the answers to it. The first byte says which cause, and whether the lengths in the packet's header are set
//! right, without which few packets are whole.
#![no_main]

use std::net::IpAddr;

use etherparse::{Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6HeaderSlice, NetSlice, SlicedPacket, TransportSlice};
use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    memory,
    packet::{
        Header, IPV6_MIN_MTU,
        ecn::{self, Ecn},
        icmp::{self, Cause},
    },
};

/// RFC 1812 §4.3.2.3
const V4_LIMIT: usize = 576;

fuzz_target!(|input: &[u8]| {
    let Some((&first, packet)) = input.split_first() else { return };
    let mut packet = packet.to_vec();
    if first & 0x80 != 0 {
        set_lengths(&mut packet);
    }
    let (header, peak) = memory::peak(|| Header::parse(&packet));
    assert_eq!(peak, 0, "a header takes no heap");
    mark(&packet);
    let Some(header) = header else {
        assert_eq!(icmp::error(&packet, Cause::NoRoute, IpAddr::from([10, 0, 0, 1])), None);
        return;
    };
    assert_eq!(addresses(&packet), (header.source, header.destination));
    for cause in causes(first) {
        answer(&packet, header, cause);
    }
});

fn causes(first: u8) -> [Cause; 5] {
    let mtu = usize::from(first & 0x7f) * 16;
    [Cause::TooLarge { mtu }, Cause::NoRoute, Cause::Prohibited, Cause::ForeignSource, Cause::HopLimit]
}

fn set_lengths(packet: &mut [u8]) {
    let (at, length) = match packet.first().map(|byte| byte >> 4) {
        Some(4) => (2, packet.len()),
        Some(6) => (4, packet.len().saturating_sub(40)),
        _ => return,
    };
    if let (Some(field), Ok(length)) = (packet.get_mut(at..at + 2), u16::try_from(length)) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// As another reader sees them.
fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let header = Ipv4HeaderSlice::from_slice(packet).expect("an IPv4 header");
        return (header.source_addr().into(), header.destination_addr().into());
    }
    let header = Ipv6HeaderSlice::from_slice(packet).expect("an IPv6 header");
    (header.source_addr().into(), header.destination_addr().into())
}

/// The answer is a packet that another reader finds whole and right in its sums; it goes to the sender, is as large as
/// allowed at most, quotes the packet, and has no answer.
fn answer(packet: &[u8], header: Header, cause: Cause) {
    let (answer, peak) = memory::peak(|| icmp::error(packet, cause, header.destination));
    assert!(peak <= IPV6_MIN_MTU, "{peak} bytes of heap");
    let Some(answer) = answer else { return };
    let parsed = Header::parse(&answer).expect("a whole packet");
    assert_eq!((parsed.source, parsed.destination), (header.destination, header.source));
    let sliced = SlicedPacket::from_ip(&answer).expect("a packet that can be read");
    let (quoted, limit) = match (sliced.net, sliced.transport) {
        (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Icmpv4(message))) => {
            let header = ip.header().to_header();
            assert_eq!(header.calc_header_checksum(), header.header_checksum);
            check_v4(&message, cause);
            (&answer[28..], V4_LIMIT)
        }
        (Some(NetSlice::Ipv6(ip)), Some(TransportSlice::Icmpv6(message))) => {
            let header = ip.header();
            assert!(message.is_checksum_valid(header.source(), header.destination()));
            check_v6(&message, cause);
            (&answer[48..], IPV6_MIN_MTU)
        }
        other => panic!("{other:?} is no ICMP"),
    };
    assert!(answer.len() <= limit);
    assert!(packet.starts_with(quoted));
    assert!(quoted.len() == packet.len() || answer.len() == limit, "it quotes as much as fits");
    for cause in causes(0) {
        assert_eq!(icmp::error(&answer, cause, parsed.destination), None);
    }
}

fn check_v4(message: &Icmpv4Slice<'_>, cause: Cause) {
    let header = message.header();
    assert_eq!(header.icmp_type.calc_checksum(message.payload()), message.checksum());
    if let Cause::TooLarge { mtu } = cause {
        let told = message.bytes5to8();
        assert_eq!((message.type_u8(), message.code_u8(), &told[..2]), (3, 4, &[0, 0][..]));
        assert_eq!(usize::from(u16::from_be_bytes([told[2], told[3]])), mtu.max(68));
    }
}

fn check_v6(message: &Icmpv6Slice<'_>, cause: Cause) {
    if let Cause::TooLarge { mtu } = cause {
        assert_eq!((message.type_u8(), message.code_u8()), (2, 0));
        assert_eq!(u32::from_be_bytes(message.bytes5to8()) as usize, mtu.max(IPV6_MIN_MTU));
    }
}

/// The field is read as it was set; nothing else changes, and a right checksum stays right.
fn mark(packet: &[u8]) {
    let Some(before) = ecn::get(packet) else {
        let mut same = packet.to_vec();
        ecn::set(&mut same, Ecn::Ce);
        assert_eq!(same, packet);
        assert!(!ecn::mark(&mut same));
        return;
    };
    let mut marked = packet.to_vec();
    assert_eq!(ecn::mark(&mut marked), before != Ecn::NotEct);
    assert_eq!(ecn::get(&marked), Some(if before == Ecn::NotEct { before } else { Ecn::Ce }));
    assert_eq!(is_right(&marked), is_right(packet));
    ecn::set(&mut marked, before);
    if packet[0] >> 4 == 4 && packet[10..12] == [0xff, 0xff] {
        // The other form of 0 in ones' complement.
        marked[10..12].fill(0xff);
    }
    assert_eq!(marked, packet);
}

/// Whether the checksum of an IPv4 header is right; always, where there is none. In ones' complement all its
/// words are 0. A header that says less than its 20 bytes is read as one of 20.
fn is_right(packet: &[u8]) -> bool {
    let Some(first) = packet.first().filter(|first| **first >> 4 == 4) else { return true };
    let header = packet.get(..usize::from(first & 0x0f).max(5) * 4).unwrap_or_default();
    let words = header.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    words.sum::<u32>() % 0xffff == 0
}
