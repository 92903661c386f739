//! QUIC handshakes that never end: from addresses that are not the sender's, and from one that is.

use std::{
    io::ErrorKind,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use m2m_tunnel::quic;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Event,
    crypto::rustls::QuicClientConfig,
};
use rustls::crypto::aws_lc_rs;

use crate::{
    peer::{AUTHORITY, Credentials, GATEWAY},
    stage::{Cost, Stage},
};

/// Half-open connections under forged addresses.
const FORGED: u32 = 10_000;
/// Those with an address that is the sender's own: more than there is room for.
const SLOW: usize = 600;
/// `max_handshakes_per_source` and `retry_above`: so many from one address, and so many unproven.
const ROOM: usize = 64 + 64;
/// Time for an answer; a datagram may be lost in the crowd.
const PATIENCE: Duration = Duration::from_millis(250);
/// A QUIC handshake holds keys, the handshake's messages and its buffers: some 100 kB, of at most 128 of them, and the newcomers'.
const COST: Cost = Cost { memory: 48 << 20, files: 8 };

#[test]
fn ten_thousand_half_open_connections_leave_the_gateway_to_its_devices() {
    let mut stage = Stage::set();
    let rounds = stage.attack_on("half open, forged addresses", COST, |stage| {
        stage.enemy.within(|| forge(&stage.credentials)).unwrap();
        assert!(stage.gateway.handshakes() <= ROOM as u64 + 8, "{} handshakes", stage.gateway.handshakes());
    });
    let (sent, retries) = (rounds * FORGED as usize, stage.gateway.connections("retry") as usize);
    println!("{sent} sent, {retries} asked for a proof of their address");
    assert!(retries >= sent / 2, "{retries} of {sent} were asked for a proof");

    let mut seen = Seen::default();
    let rounds = stage.attack_on("half open, one address", COST, |stage| {
        stage.enemy.within(|| stall(&stage.credentials, &mut seen)).unwrap();
        assert!(stage.gateway.handshakes() <= ROOM as u64 + 8, "{} handshakes", stage.gateway.handshakes());
    });
    println!("{seen:?}");
    assert!(seen.accepted <= ROOM + 8, "{seen:?}");
    assert!(seen.refused >= rounds * (SLOW - ROOM) / 2, "{seen:?}");
    stage.finish();
}

/// Sends the first packet of each connection from another address and port, and hears nothing.
fn forge(credentials: &Credentials) {
    let config = config(credentials);
    for number in 0..FORGED {
        let mut first = Half::begin(&config);
        let [_, _, third, fourth] = number.to_be_bytes();
        let from = Ipv4Addr::new(198, 19, 128 + third, fourth);
        let port = 1024 + u16::try_from(number).unwrap();
        let socket = UdpSocket::bind((from, port)).unwrap();
        first.transmit(&socket);
    }
}

/// What became of connections.
#[derive(Debug, Default)]
struct Seen {
    accepted: usize,
    refused: usize,
    unanswered: usize,
}

/// Begins many handshakes from one address, proves it, and goes no further.
fn stall(credentials: &Credentials, seen: &mut Seen) {
    let config = config(credentials);
    let socket = UdpSocket::bind((Ipv4Addr::new(198, 19, 0, 1), 0)).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..SLOW {
        let mut half = Half::begin(&config);
        half.transmit(&socket);
        match half.listen(&socket) {
            Some(true) => seen.accepted += 1,
            Some(false) => seen.refused += 1,
            None => seen.unanswered += 1,
        }
    }
}

/// A connection of which only the beginning is made. Key exchange is the cheap one: the attacker saves.
fn config(credentials: &Credentials) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    let tls = credentials.tls_with(provider, quic::ALPN);
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).unwrap()))
}

struct Half {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    quic: Connection,
}

impl Half {
    fn begin(config: &ClientConfig) -> Self {
        let mut endpoint = Endpoint::new(Arc::new(EndpointConfig::default()), None, true, None);
        let (handle, quic) = endpoint.connect(Instant::now(), config.clone(), GATEWAY, AUTHORITY).unwrap();
        Self { endpoint, handle, quic }
    }

    fn transmit(&mut self, socket: &UdpSocket) {
        let mut buffer = Vec::new();
        while let Some(transmit) = self.quic.poll_transmit(Instant::now(), 1, &mut buffer) {
            // A full socket loses it, as the network does.
            let _ = socket.send_to(&buffer[..transmit.size], GATEWAY);
            buffer.clear();
        }
    }

    /// Proves the address when it is asked to. Whether the handshake goes on; `None` without an answer.
    fn listen(&mut self, socket: &UdpSocket) -> Option<bool> {
        let begin = Instant::now();
        let mut buffer = vec![0; 2048];
        while begin.elapsed() < PATIENCE {
            let (length, from) = match socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            };
            let is_retry = buffer[0] & 0xf0 == 0xf0;
            if !self.take(from, &buffer[..length]) {
                continue;
            }
            while let Some(event) = self.quic.poll() {
                if let Event::ConnectionLost { .. } = event {
                    return Some(false);
                }
            }
            if !is_retry {
                return Some(true);
            }
            self.transmit(socket);
        }
        None
    }

    /// Whether it is for this connection: the former ones are answered, too, again and again.
    fn take(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let mut answer = Vec::new();
        let event = self.endpoint.handle(Instant::now(), from, None, None, BytesMut::from(datagram), &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) if handle == self.handle => {
                self.quic.handle_event(event);
                true
            }
            _ => false,
        }
    }
}
