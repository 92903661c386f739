//! A network that lets no UDP through, from the start or from one moment to the next.

use std::time::{Duration, Instant};

use m2m_lab::wait_until;
use m2m_tests::LIMIT;

use crate::stage::{Stage, UDP};

/// How long HTTP/2 may carry the tunnel after UDP is back: the device looks after 30 s.
const BACK: Duration = Duration::from_secs(60);
/// Within this time the tunnel is on TCP.
const TOLERATED: Duration = Duration::from_secs(1);

#[test]
fn with_udp_blocked_the_tunnel_starts_over_http2() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    stage.block(UDP);
    let heartbeat = stage.heartbeat();
    let started = Instant::now();
    let mut device = stage.start_device("");
    wait_until("the first datagram", LIMIT, || heartbeat.first().is_some()).unwrap();
    let after = heartbeat.first().unwrap() - started;
    println!("first datagram {after:?} after the start of vpnd");
    device.wait_until_up("HTTP/2");
    let stream = stage.stream();
    stream.wait_for_more();
    stream.finish();
    assert!(after < TOLERATED, "{after:?}");
}

#[test]
fn when_udp_is_blocked_in_mid_session_the_tunnel_goes_on_over_http2_and_back_again() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    let mut device = stage.start_device("");
    device.wait_until_up("HTTP/3");
    let (stream, heartbeat) = stage.traffic();

    stream.take_gap();
    heartbeat.take_gap();
    stage.block(UDP);
    let blocked = Instant::now();
    device.wait_until_it_goes("by HTTP/2", LIMIT);
    println!("over HTTP/2 {:?} after UDP was blocked", blocked.elapsed());
    stream.wait_for_more();
    let gap = heartbeat.take_gap();
    println!("UDP blocked: no datagram for {gap:?}, no byte for {:?}", stream.take_gap());

    stage.unblock();
    let unblocked = Instant::now();
    device.wait_until_it_goes("by HTTP/3", BACK);
    println!("back over HTTP/3 {:?} after UDP worked again", unblocked.elapsed());
    stream.wait_for_more();
    println!("UDP back: no datagram for {:?}, no byte for {:?}", heartbeat.take_gap(), stream.take_gap());
    assert_eq!(device.count("-> Connecting"), 1, "{}", device.process.log());
    stream.finish();
    assert!(gap < TOLERATED, "{gap:?}");
}
