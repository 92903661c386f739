//! A stream of capsules (RFC 9297 §3.2, RFC 9484 §4.7). The first byte says how the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    capsule::{Capsule, CapsuleReader, MAX_VALUE},
    http3::{Code, ProtocolError},
    memory, pieces,
    routes::{are_ordered, normalize},
};

/// Heap for a stream that goes on for ever: a capsule that is not whole yet, in a buffer that doubled, and one that was
/// decoded into ranges, 3.5 times as large, in a vector that doubled.
const BOUND: usize = 12 * MAX_VALUE as usize;

fuzz_target!(|input: &[u8]| {
    let Some((&seed, stream)) = input.split_first() else { return };
    let ((capsules, end), peak) = memory::peak(|| read([stream]));
    assert!(peak <= 64 * stream.len() + 1024, "{peak} bytes of heap for {}", stream.len());
    assert_eq!(read(pieces::split(seed, stream)), (capsules.clone(), end));
    for capsule in capsules {
        check(&capsule);
        let mut bytes = Vec::new();
        capsule.encode(&mut bytes);
        assert_eq!(read([&bytes[..]]), (vec![capsule], None));
    }
    if pieces::is_chosen(input) {
        let (_, peak) = memory::peak(|| read_on(stream));
        assert!(peak <= BOUND + 4 * stream.len(), "{peak} bytes of heap for an endless stream");
    }
});

/// What comes until the stream ends or is broken, and how that is.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Capsule>, Option<Code>) {
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

/// Takes what comes, and keeps nothing, until the stream is broken.
fn read_on(stream: &[u8]) -> Result<(), ProtocolError> {
    let mut reader = CapsuleReader::default();
    for bytes in pieces::endless(stream, BOUND + BOUND / 4) {
        reader.push(&bytes);
        while reader.next_capsule()?.is_some() {}
    }
    Ok(())
}

/// What RFC 9484 §4.7 demands of each.
fn check(capsule: &Capsule) {
    match capsule {
        Capsule::Datagram(payload) => assert!(payload.len() as u64 <= MAX_VALUE),
        Capsule::AddressAssign(addresses) => {
            assert!(addresses.iter().all(|address| address.prefix == address.prefix.trunc()));
        }
        Capsule::AddressRequest(addresses) => {
            assert!(!addresses.is_empty());
            assert!(
                addresses.iter().all(|address| address.request_id != 0 && address.prefix == address.prefix.trunc())
            );
        }
        Capsule::RouteAdvertisement(ranges) => {
            assert!(are_ordered(ranges));
            assert!(ranges.iter().all(|range| range.start() <= range.end()));
            assert!(are_ordered(&normalize(ranges.clone())));
        }
        Capsule::Echo(delay) => assert_eq!(delay.subsec_nanos() % 1_000_000, 0),
    }
}
