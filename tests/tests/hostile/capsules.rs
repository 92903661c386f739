//! Floods of capsules from a device with a good certificate.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use m2m_tunnel::{
    capsule::{Capsule, RequestedAddress},
    http3::Code,
    varint,
};
use quinn::TransportConfig;

use crate::{
    http2::{ENHANCE_YOUR_CALM, Http2, Told, kind},
    peer::Tunnel,
    stage::{Cost, Stage},
};

const HERE: Ipv4Addr = Ipv4Addr::new(198, 19, 0, 1);
/// How long the flood that breaks no rule lasts.
const FLOOD: Duration = Duration::from_secs(3);
/// Windows of 512 KiB, one capsule of 72 KiB and 256 KiB of answers for each connection, and what connections cost until they are
/// forgotten.
const COST: Cost = Cost { memory: 48 << 20, files: 8 };

#[test]
fn floods_of_capsules_end_or_cost_nothing() {
    let mut stage = Stage::set();
    stage.attack("unknown capsules", COST, |stage| {
        let bytes = stage.runtime.block_on(skip(stage));
        println!("{} MB of unknown capsules", bytes >> 20);
    });
    stage.attack_on("capsules that are refused", COST, |stage| {
        stage.runtime.block_on(async {
            assert_eq!(giant(stage).await.0, Code::EXCESSIVE_LOAD);
            let told = ask_on(stage, 300, TransportConfig::default()).await;
            assert_eq!(told, (Code::EXCESSIVE_LOAD, "too many requests for addresses".to_owned()));
            let mut deaf = TransportConfig::default();
            deaf.stream_receive_window(quinn::VarInt::from_u32(1024));
            let told = ask_on(stage, 5000, deaf).await;
            assert_eq!(told, (Code::EXCESSIVE_LOAD, "answers are not taken".to_owned()));
        });
        assert_eq!(ask_on_by_tcp(stage), Told::GoAway(ENHANCE_YOUR_CALM));
    });
    stage.finish();
}

/// Unknown capsules: the gateway has to skip them (RFC 9297 section 3.2).
async fn skip(stage: &Stage) -> usize {
    let mut tunnel = Tunnel::open(&stage.enemy, HERE.into(), &stage.credentials, TransportConfig::default()).await;
    let mut capsules = Vec::new();
    // Many small ones, one large one.
    for length in [1; 500].into_iter().chain([8000]) {
        varint::write(0x1f * 7 + 0x17, &mut capsules);
        varint::write(length, &mut capsules);
        capsules.resize(capsules.len() + length as usize, 0);
    }
    let (begin, mut sent) = (Instant::now(), 0);
    while begin.elapsed() < FLOOD {
        assert!(tunnel.say(&capsules).await, "skipping is no reason to close: {:?}", tunnel.peer.quic.close_reason());
        sent += capsules.len();
    }
    tunnel.peer.close().await;
    sent
}

/// A DATAGRAM capsule of 1 GiB, as it says.
async fn giant(stage: &Stage) -> (Code, String) {
    let mut tunnel = Tunnel::open(&stage.enemy, HERE.into(), &stage.credentials, TransportConfig::default()).await;
    let mut capsule = Vec::new();
    varint::write(0, &mut capsule);
    varint::write(1 << 30, &mut capsule);
    capsule.resize(8000, 0);
    tunnel.say(&capsule).await;
    tunnel.peer.told().await
}

/// Asks for `addresses` addresses at a time until the gateway has enough of it.
async fn ask_on(stage: &Stage, addresses: u64, transport: TransportConfig) -> (Code, String) {
    let mut tunnel = Tunnel::open(&stage.enemy, HERE.into(), &stage.credentials, transport).await;
    let capsule = address_request(addresses);
    let begin = Instant::now();
    while tunnel.say(&capsule).await {
        assert!(begin.elapsed() < Duration::from_secs(10), "the gateway answers for ever");
    }
    tunnel.peer.told().await
}

/// The same over HTTP/2, an address at a time.
fn ask_on_by_tcp(stage: &Stage) -> Told {
    let mut http2 = Http2::connect(&stage.enemy, HERE, &stage.credentials).unwrap();
    http2.ask().unwrap();
    for _ in 0..1000 {
        if http2.send(kind::DATA, 0, 1, &address_request(1)).is_err() {
            break;
        }
    }
    http2.closed()
}

/// An ADDRESS_REQUEST capsule for so many addresses.
fn address_request(addresses: u64) -> Vec<u8> {
    let request = |request_id| RequestedAddress { request_id, prefix: "0.0.0.0/32".parse().unwrap() };
    let mut capsule = Vec::new();
    Capsule::AddressRequest((1..=addresses).map(request).collect()).encode(&mut capsule);
    capsule
}
