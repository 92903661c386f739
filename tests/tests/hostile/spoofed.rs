//! Packets under another device's address, in the tunnel of a device with a good certificate.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use m2m_lab::{addresses::INTRANET_V4, wait_until};
use m2m_tunnel::capsule::{Capsule, RequestedAddress};
use quinn::TransportConfig;
use serde_json::Value;

use crate::{
    peer::Tunnel,
    stage::{Cost, ENEMY, HONEST, Stage},
};

/// Forged packets.
const FORGED: usize = 5000;
const PORT: u16 = 4711;
/// Packets are dropped where they are checked.
const COST: Cost = Cost { memory: 24 << 20, files: 8 };
const SPOOFED: &str = "m2m_gateway_device_dropped_packets_total{device=\"mallory\",reason=\"spoofed\"}";
const SOON: Duration = Duration::from_secs(10);

#[test]
fn packets_under_the_address_of_another_device_go_nowhere() {
    let mut stage = Stage::set();
    let before = honest(&stage);
    let victim: Ipv4Addr = before["addresses"]["ipv4"].as_str().unwrap().parse().unwrap();
    stage.attack_on("forged sources", COST, |stage| {
        let company = stage.company().within(|| UdpSocket::bind((INTRANET_V4, PORT))).unwrap().unwrap();
        company.set_nonblocking(true).unwrap();
        stage.runtime.block_on(async {
            let here = IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1));
            let mut tunnel = Tunnel::open(&stage.enemy, here, &stage.credentials, TransportConfig::default()).await;
            let own = tunnel.addresses.iter().find_map(|address| match address {
                IpAddr::V4(address) => Some(*address),
                IpAddr::V6(_) => None,
            });
            let own = own.unwrap();
            assert_ne!(own, victim);
            let request = RequestedAddress { request_id: 1, prefix: IpAddr::V4(victim).into() };
            let mut capsule = Vec::new();
            Capsule::AddressRequest(vec![request]).encode(&mut capsule);
            assert!(tunnel.say(&capsule).await, "asking is allowed");
            for _ in 0..FORGED {
                let datagram = [&[0, 0][..], &packet(victim)].concat();
                tunnel.peer.quic.send_datagram_wait(datagram.into()).await.unwrap();
            }
            let spoofed = || stage.gateway.sessions(ENEMY)[0]["counters"]["spoofed"].as_u64().unwrap();
            wait_until("forged packets to be counted", SOON, || spoofed() > 0).unwrap();

            // Its own packets arrive, behind all the others.
            let datagram = [&[0, 0][..], &packet(own)].concat();
            let mut buffer = [0; 64];
            let mut heard = None;
            wait_until("a packet that is not forged", SOON, || {
                tunnel.peer.quic.send_datagram(datagram.clone().into()).unwrap();
                heard = company.recv_from(&mut buffer).ok();
                heard.is_some()
            })
            .unwrap();
            let mut heard_from = vec![heard.unwrap().1];
            while let Ok((_, from)) = company.recv_from(&mut buffer) {
                heard_from.push(from);
            }
            assert!(heard_from.iter().all(|from| *from == SocketAddr::from((own, PORT))), "{heard_from:?}");
            tunnel.peer.close().await;
        });
    });
    println!("{} forged packets were dropped", stage.gateway.metric(SPOOFED));
    let after = honest(&stage);
    for field in ["addresses", "remote", "since"] {
        assert_eq!(before[field], after[field], "{field}");
    }
    stage.finish();
}

fn honest(stage: &Stage) -> Value {
    stage.gateway.sessions(HONEST).remove(0)
}

/// A UDP packet to the company, without UDP's checksum.
fn packet(source: Ipv4Addr) -> Vec<u8> {
    let content = b"it was me";
    let length = 28 + content.len() as u16;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(INTRANET_V4.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend((length - 20).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend_from_slice(content);
    packet
}
