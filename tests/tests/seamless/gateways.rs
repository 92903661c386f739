//! A gateway that crashes and comes back, and one that leaves in order.

use std::time::{Duration, Instant};

use m2m_lab::addresses::{GATEWAY_V4, GATEWAY2_V4};
use m2m_lab::wait_until;
use m2m_tests::LIMIT;
use nix::sys::signal::Signal;

use crate::stage::Stage;

/// How long a gateway is gone.
const ABSENCE: Duration = Duration::from_secs(2);
/// A device is back within this time of its gateway's return.
const RETURN: Duration = Duration::from_secs(5);
/// How long nothing may come through while the device moves, on a slow machine too.
const TOLERATED: Duration = Duration::from_secs(1);

#[test]
fn a_device_is_back_when_its_gateway_is() {
    let stage = Stage::set();
    let mut gateway = stage.start_gateway();
    let mut device = stage.start_device("");
    device.wait_until_up("HTTP/3");
    let (stream, heartbeat) = stage.traffic();

    stream.take_gap();
    heartbeat.take_gap();
    gateway.kill();
    let killed = Instant::now();
    wait_until("the end of its absence", LIMIT, || killed.elapsed() >= ABSENCE).unwrap();
    let _gateway = stage.start_gateway();
    let returned = Instant::now();
    let missed = heartbeat.beats();
    wait_until("datagrams", LIMIT, || heartbeat.beats() > missed).unwrap();
    let back = returned.elapsed();
    println!("back {back:?} after the gateway served again");
    stream.wait_for_more();
    println!("gateway restarted: no datagram for {:?}, no byte for {:?}", heartbeat.take_gap(), stream.take_gap());
    stream.finish();
    assert!(back < RETURN, "{back:?}");
}

#[test]
fn a_device_leaves_a_gateway_that_drains_before_it_ends() {
    let stage = Stage::with_two_gateways();
    let mut gateway = stage.start_gateway_of_two(1);
    let _gateway2 = stage.start_gateway_of_two(2);
    let device = stage.start_device("");
    device.wait_until_it_goes(&format!("through {GATEWAY_V4}"), LIMIT);
    let heartbeat = stage.heartbeat();
    // The company hears by BGP where the device is.
    wait_until("the first datagram", LIMIT, || heartbeat.first().is_some()).unwrap();
    let stream = stage.stream();

    stream.take_gap();
    heartbeat.take_gap();
    gateway.signal(Signal::SIGTERM);
    let told = Instant::now();
    device.wait_until_it_goes(&format!("through {GATEWAY2_V4}"), LIMIT);
    println!("at the second gateway {:?} after the first one was told to end", told.elapsed());
    assert!(gateway.is_running(), "it ended before its device was gone:\n{}", gateway.log());
    let status = gateway.wait(LIMIT).unwrap();
    println!("the first gateway ended after {:?}: {status}", told.elapsed());
    assert!(status.success(), "{}", gateway.log());
    stream.wait_for_more();
    let gap = heartbeat.take_gap();
    println!("drained: no datagram for {gap:?}, no byte for {:?}", stream.take_gap());
    assert!(gap < TOLERATED, "{gap:?}");
    assert_eq!(device.count("-> Connecting"), 1, "{}", device.process.log());
    stream.finish();
}
