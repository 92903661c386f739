//! A device with two uplinks, and one whose address changes.

use std::time::{Duration, Instant};

use m2m_lab::{Lab, Node, addresses::GATEWAY_V6, wait_until};
use m2m_tests::{LIMIT, Stream};

use crate::{heartbeat::Heartbeat, stage::Stage};

const FIRST: &str = "uplink0";
const SECOND: &str = "uplink1";
/// How long nothing may come through, on a slow machine too.
const TOLERATED: Duration = Duration::from_secs(3);

#[test]
fn the_tunnel_goes_to_the_other_uplink_and_back() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    add_uplink(&stage.lab, &stage.device.node);
    let mut device = stage.start_device("");
    device.wait_until_up("HTTP/3");
    let (stream, heartbeat) = stage.traffic();
    let sent = |uplink: &str| sent(&stage.device.node, uplink);

    stream.take_gap();
    heartbeat.take_gap();
    let before = sent(SECOND);
    stage.device.set_link(false).unwrap();
    let pulled = Instant::now();
    wait_until("the second uplink", LIMIT, || sent(SECOND) > before + SOME).unwrap();
    println!("over the second uplink {:?} after the first one went", pulled.elapsed());
    went_on("uplink lost", &stream, &heartbeat);

    let before = sent(FIRST);
    stage.device.set_link(true).unwrap();
    let plugged = Instant::now();
    wait_until("the first uplink", LIMIT, || sent(FIRST) > before + SOME).unwrap();
    println!("back over the first uplink {:?} after it came back", plugged.elapsed());
    went_on("uplink back", &stream, &heartbeat);
    assert_eq!(device.count("-> Connecting"), 1, "{}", device.process.log());
    stream.finish();
}

#[test]
fn the_tunnel_outlives_a_change_of_the_only_address() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    let node = &stage.device.node;
    let mut device = stage.start_device("");
    device.wait_until_up("HTTP/3");
    let (stream, heartbeat) = stage.traffic();

    stream.take_gap();
    heartbeat.take_gap();
    node.ip(&format!("addr del {}/24 dev {FIRST}", stage.device.v4)).unwrap();
    node.ip(&format!("addr add 192.0.2.200/24 dev {FIRST}")).unwrap();
    // The kernel took the route away with the address.
    node.ip("route replace default via 192.0.2.1").unwrap();
    went_on("address changed", &stream, &heartbeat);
    // The same connection, at another address.
    assert_eq!(device.count("tunnel moved"), 0, "{}", device.process.log());
    assert_eq!(device.count("-> Connecting"), 1, "{}", device.process.log());
    stream.finish();
}

#[test]
fn the_tunnel_outlives_a_nat_that_forgets_it() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    let router = &stage.lab.topology().internet;
    let mut device = stage.start_device("");
    device.wait_until_up("HTTP/3");
    let (stream, heartbeat) = stage.traffic();

    stream.take_gap();
    heartbeat.take_gap();
    // The next binding has another port, as after a restart of the router.
    router.nft("insert rule ip nat postrouting udp dport 443 masquerade to :40000-40999\n").unwrap();
    router.exec(&["conntrack", "-D", "-p", "udp", "--orig-port-dst", "443"]).unwrap().ok().unwrap();
    let bindings = || router.exec(&["conntrack", "-L", "-p", "udp", "--orig-port-dst", "443"]).unwrap().ok().unwrap();
    wait_until("another binding", LIMIT, || bindings().contains("dport=40")).unwrap();
    went_on("NAT rebound", &stream, &heartbeat);
    assert_eq!(device.count("tunnel moved"), 0, "{}", device.process.log());
    assert_eq!(device.count("-> Connecting"), 1, "{}", device.process.log());
    stream.finish();
}

#[test]
fn an_uplink_with_nothing_but_ipv6_will_do() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    let node = &stage.device.node;
    node.ip(&format!("-4 addr flush dev {FIRST}")).unwrap();
    let other = format!("priority = 1\n[[tunnel.gateway]]\norigin = \"https://[{GATEWAY_V6}]\"\npriority = 2\n");
    let mut device = stage.start_device_with("", &other);
    device.wait_until_up("HTTP/3");
    let stream = stage.stream();
    stream.wait_for_more();
    assert_eq!(node.ip("-4 -o addr show scope global dev uplink0").unwrap(), "");
    stream.finish();
}

/// Both come through again, and nothing was missing for longer than is tolerated.
fn went_on(what: &str, stream: &Stream, heartbeat: &Heartbeat) {
    stream.wait_for_more();
    let gap = heartbeat.take_gap();
    println!("{what}: no datagram for {gap:?}, no byte for {:?}", stream.take_gap());
    assert!(gap < TOLERATED, "{gap:?}");
}

/// More bytes than a probe or two has: the stream's.
const SOME: u64 = 200_000;

/// A link of its own between device and router, 172.16.1.0/24 with NAT, behind the first one in the order of routes.
fn add_uplink(lab: &Lab, device: &Node) {
    let router = &lab.topology().internet;
    router.ip(&format!("link add dev1 type veth peer name {SECOND} netns {}", device.name())).unwrap();
    router.ip("addr add 172.16.1.1/24 dev dev1").unwrap();
    router.set_link("dev1", true).unwrap();
    router.nft("add rule ip nat postrouting ip saddr 172.16.1.0/24 oifname != \"dev1\" masquerade\n").unwrap();
    device.set_link(SECOND, true).unwrap();
    device.ip(&format!("addr add 172.16.1.2/24 dev {SECOND}")).unwrap();
    device.ip(&format!("route add default via 172.16.1.1 dev {SECOND} metric 200")).unwrap();
}

/// Bytes that an interface has sent.
fn sent(node: &Node, interface: &str) -> u64 {
    let text = node.ip(&format!("-s -j link show {interface}")).unwrap();
    let links: serde_json::Value = serde_json::from_str(&text).unwrap();
    links[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
}
