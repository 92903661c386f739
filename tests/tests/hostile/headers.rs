//! Header sections without end, from a device with a good certificate.

use std::net::{IpAddr, Ipv4Addr};

use m2m_tunnel::{
    http3::{Code, frame},
    qpack::Field,
};
use quinn::TransportConfig;

use crate::{
    http2::{COMPRESSION_ERROR, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Http2, Told, field, kind, plain_request},
    peer::{Peer, headers},
    stage::{Cost, Stage},
};

/// What the gateway reads of a section is 16 KiB; the rest is what connections cost until they are forgotten.
const COST: Cost = Cost { memory: 48 << 20, files: 16 };
const HERE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);

#[test]
fn giant_headers_are_refused_before_they_are_read() {
    let mut stage = Stage::set();
    stage.attack_on("giant headers", COST, |stage| {
        for section in [giant_frame(), many_fields(), bomb()] {
            assert_eq!(stage.runtime.block_on(over_http3(stage, &section)), Code::EXCESSIVE_LOAD);
        }
        assert_eq!(over_http2(stage), Told::GoAway(COMPRESSION_ERROR));
        assert_eq!(continuations(stage), Told::GoAway(ENHANCE_YOUR_CALM));
    });
    stage.finish();
}

/// The code that the gateway closes the connection with.
async fn over_http3(stage: &Stage, section: &[u8]) -> Code {
    let peer = Peer::connect(&stage.enemy, IpAddr::V4(HERE), &stage.credentials, TransportConfig::default()).await;
    let peer = peer.unwrap();
    let _control = peer.open_control().await;
    let (mut send, _receive) = peer.quic.open_bi().await.unwrap();
    // It may be closed before all of it is written.
    let _ = send.write_all(section).await;
    peer.told().await.0
}

/// HEADERS of 1 GiB, as they say, and the first bytes.
fn giant_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write_header(frame::kind::HEADERS, 1 << 30, &mut bytes);
    bytes.resize(1 << 16, 0);
    bytes
}

/// More fields than 16 KiB hold, counted as RFC 9114 section 4.2.2 does, in a frame that is small enough.
fn many_fields() -> Vec<u8> {
    headers(&vec![Field::new("a", "b"); 1000])
}

/// Fields of the static table, each in one byte.
fn bomb() -> Vec<u8> {
    let mut section = vec![0, 0];
    // content-security-policy: script-src 'none'; object-src 'none'; base-uri 'none' (RFC 9204 appendix A)
    section.extend(std::iter::repeat_n([0xff, 85 - 63], 8000).flatten());
    let mut bytes = Vec::new();
    frame::write(frame::kind::HEADERS, &section[..16_000], &mut bytes);
    bytes
}

/// A section of more than 16 KiB in one frame.
fn over_http2(stage: &Stage) -> Told {
    let mut http2 = Http2::connect(&stage.enemy, HERE, &stage.credentials).unwrap();
    let mut section = plain_request();
    let filler = "x".repeat(100);
    while section.len() < 60_000 {
        section.extend(field("filler", &filler));
    }
    // Frames of the default size, the largest that every peer takes.
    let mut pieces = section.chunks(16_384).peekable();
    let mut kind = kind::HEADERS;
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let end = if kind == kind::HEADERS { END_STREAM } else { 0 };
        if http2.send(kind, last | end, 1, piece).is_err() {
            break;
        }
        kind = kind::CONTINUATION;
    }
    http2.told()
}

/// CONTINUATION frames that never end.
fn continuations(stage: &Stage) -> Told {
    let mut http2 = Http2::connect(&stage.enemy, HERE, &stage.credentials).unwrap();
    http2.send(kind::HEADERS, END_STREAM, 1, &plain_request()).unwrap();
    for _ in 0..10_000 {
        if http2.send(kind::CONTINUATION, 0, 1, &field("x", "y")).is_err() {
            break;
        }
    }
    http2.told()
}
