//! Streams that are opened to be given up, from a device with a good certificate.

use std::net::{IpAddr, Ipv4Addr};

use m2m_tunnel::{http3::Code, varint};
use quinn::{TransportConfig, VarInt};

use crate::{
    http2::{END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, Http2, Told, kind, plain_request},
    peer::Tunnel,
    stage::{Cost, Stage},
};

const HERE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// More than any connection gets through.
const MOST: usize = 1000;
/// The streams that a client may open in all.
const STREAMS: usize = 64;
/// Streams keep nothing when they are over; this is what connections cost until they are forgotten.
const COST: Cost = Cost { memory: 48 << 20, files: 16 };

#[test]
fn who_opens_streams_to_give_them_up_is_disconnected() {
    let mut stage = Stage::set();
    stage.attack_on("streams given up at once", COST, |stage| {
        stage.runtime.block_on(async {
            for opened in [requests(stage).await, unknown(stage).await] {
                assert!(opened <= STREAMS + 8, "{opened} streams");
            }
        });
        assert_eq!(rapid_reset(stage), Told::GoAway(ENHANCE_YOUR_CALM));
    });
    stage.finish();
}

/// Requests that are reset at once, until the gateway closes the connection; how many there were.
async fn requests(stage: &Stage) -> usize {
    let tunnel = tunnel(stage).await;
    for opened in 0..MOST {
        let Ok((mut send, _receive)) = tunnel.peer.quic.open_bi().await else { return told(tunnel, opened).await };
        // Both fail when the connection is closed meanwhile.
        let _ = send.write_all(&[1, 0x40]).await;
        let _ = send.reset(VarInt::from_u32(0x10c));
    }
    panic!("{MOST} streams and no end");
}

/// Streams of a type that nobody knows.
async fn unknown(stage: &Stage) -> usize {
    let tunnel = tunnel(stage).await;
    let mut kind = Vec::new();
    varint::write(0x1f * 3 + 0x21, &mut kind);
    for opened in 0..MOST {
        let Ok(mut send) = tunnel.peer.quic.open_uni().await else { return told(tunnel, opened).await };
        // Both fail when the connection is closed meanwhile.
        let _ = send.write_all(&kind).await;
        let _ = send.reset(VarInt::from_u32(0x10c));
    }
    panic!("{MOST} streams and no end");
}

/// HEADERS and RST_STREAM, again and again (CVE-2023-44487).
fn rapid_reset(stage: &Stage) -> Told {
    let mut http2 = Http2::connect(&stage.enemy, HERE, &stage.credentials).unwrap();
    for number in 0..MOST as u32 {
        let stream = 2 * number + 1;
        let asked = http2.send(kind::HEADERS, END_HEADERS | END_STREAM, stream, &plain_request());
        if asked.and_then(|()| http2.send(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes())).is_err() {
            break;
        }
    }
    http2.closed()
}

async fn tunnel(stage: &Stage) -> Tunnel {
    Tunnel::open(&stage.enemy, IpAddr::V4(HERE), &stage.credentials, TransportConfig::default()).await
}

async fn told(tunnel: Tunnel, opened: usize) -> usize {
    let (code, words) = tunnel.peer.told().await;
    assert_eq!((code, words.as_str()), (Code::EXCESSIVE_LOAD, "too many streams for one tunnel"));
    opened
}
