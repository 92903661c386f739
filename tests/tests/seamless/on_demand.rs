//! A tunnel that is open only while somebody uses it.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    time::{Duration, Instant},
};

use m2m_lab::{addresses::INTRANET_V4, wait_until};
use m2m_tests::LIMIT;

use crate::stage::Stage;

const ANSWER: Duration = Duration::from_secs(5);

#[test]
fn the_first_packet_opens_the_tunnel_and_arrives() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    let mut device = stage.start_device("mode = \"on-demand\"\nidle_s = 10");
    device.process.wait_for_log("-> Standby", LIMIT).unwrap();
    // One SYN, and the connection stays while the tunnel does not.
    let stream = stage.stream();
    wait_until("Connected", LIMIT, || device.state() == "Connected").unwrap();
    stream.pause();
    let paused = Instant::now();
    wait_until("Standby", LIMIT, || device.state() == "Standby").unwrap();
    println!("closed {:?} after the last packet", paused.elapsed());

    let company = &stage.lab.topology().company;
    let server = company.within(|| UdpSocket::bind((IpAddr::from(INTRANET_V4), 0))).unwrap().unwrap();
    server.set_read_timeout(Some(ANSWER)).unwrap();
    let here = stage.device.node.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
    let sent = Instant::now();
    here.send_to(b"once", server.local_addr().unwrap()).unwrap();
    let mut buffer = [0; 64];
    let (length, _) = server.recv_from(&mut buffer).unwrap();
    println!("the datagram that opened the tunnel arrived after {:?}", sent.elapsed());
    assert_eq!(&buffer[..length], b"once");
    assert_eq!(device.state(), "Connected");

    stream.resume();
    stream.wait_for_more();
    stream.finish();
}
