//! A device without an operating system: a tunnel, and packets made by hand.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ipnet::IpNet;
use m2m_identity::tls::{self, ClientTls, Identity, TrustAnchors};
use m2m_tunnel::client::{ConnectRequest, establish};
use m2m_tunnel::hub::{ConnectionHandle, EndpointConfig, Hub};
use m2m_tunnel::quic;
use m2m_tunnel::session::{CloseReason, Event, PREFIX};
use m2m_tunnel::udp::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::host::{Host, LIMIT};

pub struct Device {
    pub addresses: Vec<IpNet>,
    pub routes: Vec<IpNet>,
    outgoing: mpsc::UnboundedSender<Bytes>,
    packets: tokio::sync::Mutex<mpsc::UnboundedReceiver<Bytes>>,
    events: mpsc::UnboundedReceiver<Event>,
}

impl Device {
    /// Opens a tunnel and waits for addresses and routes; the error in words otherwise.
    pub async fn connect(host: &Host, anchors: &TrustAnchors, identity: &Identity) -> Result<Self, String> {
        timeout(LIMIT, Self::connect_in(host, anchors, identity)).await.expect("an answer in time")
    }

    async fn connect_in(host: &Host, anchors: &TrustAnchors, identity: &Identity) -> Result<Self, String> {
        let tls = tls::client_config(ClientTls {
            anchors,
            identity: Some(identity),
            alpn: &[b"h3"],
            clock: Arc::new(rustls::time_provider::DefaultTimeProvider),
        })
        .unwrap();
        let config = quic::client_config(tls, quic::client_transport(quic::IDLE_TIMEOUT)).unwrap();
        let mut hub = Hub::new(UdpSocket::new(host.socket()).unwrap(), EndpointConfig::default(), None);
        let gateway = SocketAddr::from(([127, 0, 0, 1], 443));
        let request = ConnectRequest::new("gateway.example");
        let handle = hub.connect(config, gateway, "gateway.example", request, Instant::now()).unwrap();
        establish(&mut hub, handle).await.map_err(|error| error.to_string())?;

        let (outgoing, to_send) = mpsc::unbounded_channel();
        let (received, packets) = mpsc::unbounded_channel();
        let (happened, events) = mpsc::unbounded_channel();
        tokio::spawn(carry(hub, handle, to_send, received, happened));
        let packets = tokio::sync::Mutex::new(packets);
        let mut device = Self { addresses: Vec::new(), routes: Vec::new(), outgoing, packets, events };
        while device.addresses.is_empty() || device.routes.is_empty() {
            match device.events.recv().await.expect("an end that is told") {
                Event::AddressesAssigned(assigned) => {
                    device.addresses = assigned.into_iter().map(|address| address.prefix).collect();
                }
                Event::RoutesAdvertised(ranges) => {
                    device.routes = ranges.iter().flat_map(m2m_tunnel::routes::IpRange::prefixes).collect();
                }
                Event::Closed(reason) => return Err(reason.to_string()),
                _ => {}
            }
        }
        Ok(device)
    }

    /// Sends an IP packet.
    pub fn send(&self, packet: &[u8]) {
        self.outgoing.send([&PREFIX, packet].concat().into()).unwrap();
    }

    /// Its own address of the family of `other`.
    pub fn address_beside(&self, other: IpAddr) -> IpAddr {
        let same = |net: &&IpNet| net.addr().is_ipv4() == other.is_ipv4();
        self.addresses.iter().find(same).expect("an address of this family").addr()
    }

    /// Sends an echo request to `destination` and waits for the kernel's answer.
    pub async fn ping(&self, destination: &str) {
        let destination: IpAddr = destination.parse().unwrap();
        let own = self.address_beside(destination);
        let end = tokio::time::Instant::now() + LIMIT;
        // A packet may be lost: the interface's address is new to the kernel, too.
        loop {
            assert!(tokio::time::Instant::now() < end, "no answer from {destination}");
            self.send(&echo_request(own, destination));
            let answers = |packet: &[u8]| {
                let header = m2m_tunnel::packet::Header::parse(packet).expect("a whole packet");
                is_echo_reply(packet) && (header.source, header.destination) == (destination, own)
            };
            if self.receive(Duration::from_secs(1), answers).await.is_some() {
                return;
            }
        }
    }

    /// The first packet within `patience` that `wanted` takes; others are passed over.
    pub async fn receive(&self, patience: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Bytes> {
        let mut packets = self.packets.lock().await;
        timeout(patience, async {
            loop {
                let packet = packets.recv().await.expect("the tunnel is open");
                if wanted(&packet) {
                    return packet;
                }
            }
        })
        .await
        .ok()
    }

    /// Waits until the tunnel is gone.
    pub async fn end(&mut self) -> CloseReason {
        timeout(LIMIT, async {
            loop {
                if let Event::Closed(reason) = self.events.recv().await.expect("an end that is told") {
                    return reason;
                }
            }
        })
        .await
        .expect("the tunnel ends")
    }
}

/// Moves packets until the tunnel is gone, or the device.
async fn carry(
    mut hub: Hub,
    handle: ConnectionHandle,
    mut to_send: mpsc::UnboundedReceiver<Bytes>,
    received: mpsc::UnboundedSender<Bytes>,
    happened: mpsc::UnboundedSender<Event>,
) {
    loop {
        let now = Instant::now();
        hub.receive(now).unwrap();
        hub.handle_timeout(now);
        while hub.next_changed(now).is_some() {
            let Some(session) = hub.session(handle) else { return };
            while let Some(packet) = session.recv() {
                let _ = received.send(packet);
            }
            while let Some(event) = session.poll_event() {
                let _ = happened.send(event);
            }
        }
        hub.transmit(now);
        let due = hub.poll_timeout();
        tokio::select! {
            packet = to_send.recv() => match packet {
                Some(packet) => drop(hub.send(handle, packet, now)),
                None => {
                    if let Some(session) = hub.session(handle) {
                        session.close(m2m_tunnel::http3::Code::NO_ERROR, "", now);
                    }
                    hub.transmit(now);
                    return;
                }
            },
            () = poll_fn(|context| hub.poll_ready(context)) => {}
            () = tokio::time::sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
        }
    }
}

/// An ICMP or ICMPv6 echo request.
pub fn echo_request(source: IpAddr, destination: IpAddr) -> Vec<u8> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let mut packet = vec![0x45, 0, 0, 36, 0, 1, 0x40, 0, 64, 1, 0, 0];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum);
            let mut message = vec![8, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
            let sum = checksum(&message);
            message[2..4].copy_from_slice(&sum);
            packet.extend(message);
            packet
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let mut message = vec![128, 0, 0, 0, 0, 7, 0, 1, 1, 2, 3, 4, 5, 6, 7, 8];
            let mut covered = [source.octets(), destination.octets()].concat();
            covered.extend([0, 0, 0, 16, 0, 0, 0, 58]);
            covered.extend(&message);
            let sum = checksum(&covered);
            message[2..4].copy_from_slice(&sum);
            let mut packet = vec![0x60, 0, 0, 0, 0, 16, 58, 64];
            packet.extend(source.octets());
            packet.extend(destination.octets());
            packet.extend(message);
            packet
        }
        _ => panic!("one family"),
    }
}

fn is_echo_reply(packet: &[u8]) -> bool {
    match packet[0] >> 4 {
        4 => packet[9] == 1 && packet[20] == 0,
        _ => packet[6] == 58 && packet[40] == 129,
    }
}

/// RFC 1071; an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}
