//! Nothing leaves in the clear, whatever happens to the daemon and the link.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{net::UdpSocket, time::Duration};

use m2m_lab::wait_until;
use m2m_tests::{Company, LIMIT, Traffic};

fn wait_for_traffic(traffic: &Traffic) {
    let before = traffic.received();
    wait_until("traffic to run", LIMIT, || traffic.received() > before + 1000).unwrap();
}

#[test]
fn a_killed_daemon_leaks_nothing_and_comes_back() {
    let mut company = Company::open().unwrap();
    let mut device = company.connected_device("truck").unwrap();
    let traffic = Traffic::start(&device.device().node);
    wait_for_traffic(&traffic);
    for _ in 0..2 {
        device.kill();
        assert!(company.fetch_both(&device).is_err(), "the company is reached without the daemon");
        device.start().unwrap();
        device.wait_for_state("Connected", LIMIT).unwrap();
        wait_for_traffic(&traffic);
    }
    drop(traffic);
    company.audit().unwrap();
}

#[test]
fn a_link_that_flaps_leaks_nothing_and_the_tunnel_carries_on() {
    let mut company = Company::open().unwrap();
    let device = company.connected_device("truck").unwrap();
    let traffic = Traffic::start(&device.device().node);
    wait_for_traffic(&traffic);
    for _ in 0..3 {
        device.device().set_link(false).unwrap();
        let reached = company.fetch_both(&device);
        device.device().set_link(true).unwrap();
        assert!(reached.is_err(), "the company is reached without a cable");
        wait_for_traffic(&traffic);
    }
    drop(traffic);
    company.audit().unwrap();
}

#[test]
fn a_device_cannot_send_from_an_address_that_is_not_its_own() {
    let mut company = Company::open().unwrap();
    let device = company.connected_device("truck").unwrap();
    let inbox = company.lab.topology().company.within(|| UdpSocket::bind("10.20.0.80:7777")).unwrap().unwrap();
    inbox.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let node = &device.device().node;
    let send = |from: &str| {
        node.within(|| UdpSocket::bind((from, 0)).and_then(|socket| socket.send_to(from.as_bytes(), "10.20.0.80:7777")))
    };
    let mut buffer = [0; 64];

    node.ip("addr add 10.99.200.200/32 dev m2m0").unwrap();
    let _ = send("10.99.200.200").unwrap();
    let received = inbox.recv_from(&mut buffer);
    assert!(received.is_err(), "a forged packet arrived from {received:?}");

    send("0.0.0.0").unwrap().unwrap();
    assert_eq!(inbox.recv_from(&mut buffer).unwrap().0, "0.0.0.0".len());
    company.audit().unwrap();
}
