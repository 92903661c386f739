#![allow(clippy::unwrap_used)]
use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::*;
use crate::{routes::normalize, split::any_cuts};

fn decode(bytes: &[u8]) -> Result<Vec<Capsule>, Code> {
    match read(&[bytes]) {
        (capsules, None) => Ok(capsules),
        (_, Some(code)) => Err(code),
    }
}

/// What comes until the stream ends or is broken, and how that is.
fn read(pieces: &[&[u8]]) -> (Vec<Capsule>, Option<Code>) {
    let mut reader = CapsuleReader::default();
    let mut capsules = Vec::new();
    for piece in pieces {
        reader.push(piece);
        loop {
            match reader.next_capsule() {
                Ok(Some(capsule)) => capsules.push(capsule),
                Ok(None) => break,
                Err(error) => return (capsules, Some(error.code)),
            }
        }
    }
    (capsules, reader.finish().err().map(|error| error.code))
}

fn encoded(capsule: &Capsule) -> Vec<u8> {
    let mut bytes = Vec::new();
    capsule.encode(&mut bytes);
    bytes
}

fn prefix(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn assigned(request_id: u64, prefix: &str) -> AssignedAddress {
    AssignedAddress { request_id, prefix: prefix.parse().unwrap() }
}

/// RFC 9297 §3.2 and §3.5, RFC 9484 §4.7 with the addresses of its examples in §8.
#[test]
fn layouts_of_rfc_9484() {
    let range = |start: &str, end: &str, protocol| {
        IpRange::new(start.parse().unwrap(), end.parse().unwrap(), protocol).unwrap()
    };
    let cases: [(Capsule, &[u8]); 10] = [
        (Capsule::Datagram(Bytes::from_static(&[0, 0x45])), &[0, 2, 0, 0x45]),
        (Capsule::Echo(Duration::from_secs(60)), &[0x80, 0x6d, 0x32, 0x10, 4, 0x80, 0, 0xea, 0x60]),
        (
            Capsule::AddressRequest(vec![RequestedAddress { request_id: 1, prefix: prefix("0.0.0.0/32") }]),
            &[2, 7, 1, 4, 0, 0, 0, 0, 32],
        ),
        (Capsule::AddressAssign(vec![assigned(1, "192.0.2.11/32")]), &[1, 7, 1, 4, 192, 0, 2, 11, 32]),
        (Capsule::AddressAssign(vec![assigned(0x1234, "0.0.0.0/32")]), &[1, 8, 0x52, 0x34, 4, 0, 0, 0, 0, 32]),
        (Capsule::AddressAssign(vec![]), &[1, 0]),
        (
            Capsule::AddressAssign(vec![assigned(0, "192.0.2.3/32"), assigned(0, "2001:db8::1234:1234/128")]),
            &[
                1, 26, 0, 4, 192, 0, 2, 3, 32, 0, 6, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0x12,
                0x34, 128,
            ],
        ),
        (
            Capsule::RouteAdvertisement(vec![range("0.0.0.0", "255.255.255.255", 0)]),
            &[3, 10, 4, 0, 0, 0, 0, 255, 255, 255, 255, 0],
        ),
        (
            Capsule::RouteAdvertisement(vec![
                range("192.0.2.0", "192.0.2.41", 0),
                range("192.0.2.43", "192.0.2.255", 0),
            ]),
            &[3, 20, 4, 192, 0, 2, 0, 192, 0, 2, 41, 0, 4, 192, 0, 2, 43, 192, 0, 2, 255, 0],
        ),
        (
            Capsule::RouteAdvertisement(vec![range("2001:db8:3456::b", "2001:db8:3456::b", 132)]),
            &[
                3, 34, 6, 0x20, 1, 0x0d, 0xb8, 0x34, 0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 0x20, 1, 0x0d, 0xb8, 0x34,
                0x56, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 132,
            ],
        ),
    ];
    for (capsule, bytes) in cases {
        assert_eq!(encoded(&capsule), bytes);
        assert_eq!(decode(bytes), Ok(vec![capsule]));
    }
}

/// Type and length may be longer than need be (RFC 9000 §16), types to grease are skipped (RFC 9297 §5.4).
#[test]
fn headers_are_any_integers() {
    assert_eq!(decode(&[0x40, 0x01, 0x80, 0, 0, 0]), Ok(vec![Capsule::AddressAssign(vec![])]));
    for nth in [0, 1, 1000, ((1 << 62) - 1 - 0x17) / 0x29] {
        let mut bytes = Vec::new();
        varint::write(0x29 * nth + 0x17, &mut bytes);
        bytes.extend([3, 1, 2, 3, 1, 0]);
        assert_eq!(decode(&bytes), Ok(vec![Capsule::AddressAssign(vec![])]));
    }
}

#[test]
fn refusals_are_told_from_assignments() {
    for (text, expected) in
        [("0.0.0.0/32", true), ("::/128", true), ("0.0.0.0/0", false), ("::/0", false), ("192.0.2.1/32", false)]
    {
        assert_eq!(assigned(1, text).is_refusal(), expected, "{text}");
    }
}

#[test]
fn a_whole_capsule_is_not_copied() {
    let mut bytes = Vec::new();
    Capsule::encode_packet(&[7; 100], &mut bytes);
    Capsule::encode_packet(&[8; 20], &mut bytes);
    assert_eq!(bytes[..4], [0, 0x40, 101, 0]);
    let mut piece = Bytes::from(bytes);
    let memory = piece.as_ptr_range();
    let mut reader = CapsuleReader::default();
    for expected in [&[7; 100][..], &[8; 20]] {
        let Some(Capsule::Datagram(payload)) = reader.next_in(&mut piece).unwrap() else {
            panic!("no datagram");
        };
        assert!(memory.contains(&payload.as_ptr()));
        assert_eq!(Capsule::packet(&payload).unwrap(), expected);
    }
    assert_eq!(reader.next_in(&mut piece), Ok(None));
    assert_eq!(Capsule::packet(&Bytes::from_static(&[2, 0x45])), None);
    assert_eq!(Capsule::packet(&Bytes::new()), None);
}

#[test]
fn malformed_capsules_are_message_errors() {
    let cases: [&[u8]; 11] = [
        &[1, 1, 0],                                                           // cut after the request id
        &[1, 7, 0, 5, 192, 0, 2, 11, 32],                                     // version 5
        &[1, 7, 0, 4, 192, 0, 2, 11, 33],                                     // prefix length
        &[1, 7, 0, 4, 192, 0, 2, 11, 24],                                     // host bits
        &[1, 6, 0, 4, 192, 0, 2, 11],                                         // no prefix length
        &[2, 0],                                                              // no address
        &[2, 7, 0, 4, 0, 0, 0, 0, 32],                                        // request id 0
        &[3, 10, 4, 192, 0, 2, 9, 192, 0, 2, 8, 0],                           // end before start
        &[3, 20, 4, 2, 0, 0, 0, 2, 0, 0, 9, 0, 4, 2, 0, 0, 9, 2, 0, 0, 9, 0], // overlap
        &[3, 20, 4, 2, 0, 0, 0, 2, 0, 0, 0, 6, 4, 3, 0, 0, 0, 3, 0, 0, 0, 0], // protocol order
        &[3, 10, 4],                                                          // stream ends
    ];
    for bytes in cases {
        assert_eq!(decode(bytes), Err(Code::MESSAGE_ERROR), "{bytes:?}");
    }
}

#[test]
fn size_is_bounded_and_the_unknown_is_not() {
    let mut large = Vec::new();
    varint::write(ADDRESS_ASSIGN, &mut large);
    varint::write(MAX_VALUE + 1, &mut large);
    assert_eq!(decode(&large), Err(Code::EXCESSIVE_LOAD));
    let mut unknown = Vec::new();
    varint::write(0x17, &mut unknown);
    varint::write(MAX_VALUE + 1, &mut unknown);
    unknown.extend(vec![7; MAX_VALUE as usize + 1]);
    Capsule::AddressAssign(vec![]).encode(&mut unknown);
    assert_eq!(decode(&unknown), Ok(vec![Capsule::AddressAssign(vec![])]));
}

fn any_prefix() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32u8)
            .prop_map(|(bits, len)| IpNet::new(Ipv4Addr::from_bits(bits).into(), len).unwrap().trunc()),
        (any::<u128>(), 0..=128u8)
            .prop_map(|(bits, len)| IpNet::new(Ipv6Addr::from_bits(bits).into(), len).unwrap().trunc()),
    ]
}

fn any_capsule() -> impl Strategy<Value = Capsule> {
    let assigned =
        (0..=varint::MAX, any_prefix()).prop_map(|(request_id, prefix)| AssignedAddress { request_id, prefix });
    let requested =
        (1..=varint::MAX, any_prefix()).prop_map(|(request_id, prefix)| RequestedAddress { request_id, prefix });
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..100).prop_map(|payload| Capsule::Datagram(payload.into())),
        proptest::collection::vec(assigned, 0..5).prop_map(Capsule::AddressAssign),
        proptest::collection::vec(requested, 1..5).prop_map(Capsule::AddressRequest),
        proptest::collection::vec(any_prefix().prop_map(IpRange::from_prefix), 0..5)
            .prop_map(|ranges| Capsule::RouteAdvertisement(normalize(ranges))),
        (0..=varint::MAX).prop_map(|delay| Capsule::Echo(Duration::from_millis(delay))),
    ]
}

proptest! {
    #[test]
    fn any_split_gives_the_same(
        capsules in proptest::collection::vec(any_capsule(), 0..6),
        cuts in any_cuts(),
    ) {
        let mut bytes = Vec::new();
        for capsule in &capsules {
            capsule.encode(&mut bytes);
            bytes.extend([0x40, 0x41, 2, 9, 9]);
        }
        prop_assert_eq!(read(&cuts.pieces(&bytes)), (capsules, None));
    }

    #[test]
    fn any_split_of_broken_capsules_gives_the_same(
        capsules in proptest::collection::vec(any_capsule(), 1..4),
        at: prop::sample::Index,
        change: u8,
        cuts in any_cuts(),
    ) {
        let mut bytes = capsules.iter().flat_map(encoded).collect::<Vec<u8>>();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert_eq!(read(&cuts.pieces(&bytes)), read(&[&bytes]));
    }

    #[test]
    fn what_is_cut_is_seen(capsule in any_capsule()) {
        let bytes = encoded(&capsule);
        for cut in 1..bytes.len() {
            prop_assert_eq!(read(&[&bytes[..cut]]), (vec![], Some(Code::MESSAGE_ERROR)));
        }
    }

    #[test]
    fn pieces_give_the_same(
        capsules in proptest::collection::vec(any_capsule(), 0..6),
        cuts in proptest::collection::vec(1..60usize, 1..20),
    ) {
        let mut bytes = Vec::new();
        for capsule in &capsules {
            capsule.encode(&mut bytes);
            bytes.extend([0x40, 0x41, 2, 9, 9]);
        }
        let mut rest = Bytes::from(bytes);
        let mut reader = CapsuleReader::default();
        let mut found = Vec::new();
        for cut in cuts.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let mut piece = rest.split_to(cut.min(rest.len()));
            while let Some(capsule) = reader.next_in(&mut piece).unwrap() {
                found.push(capsule);
            }
            prop_assert!(piece.is_empty());
        }
        prop_assert_eq!(found, capsules);
        prop_assert!(reader.finish().is_ok());
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for capsule in read(&[&bytes]).0 {
            prop_assert_eq!(decode(&encoded(&capsule)), Ok(vec![capsule]));
        }
    }
}
