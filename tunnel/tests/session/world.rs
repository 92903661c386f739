//! Two ends of a tunnel, a network between them, and a clock that the test turns.

use std::{
    collections::{BinaryHeap, VecDeque},
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use m2m_tunnel::{
    client::ConnectRequest,
    session::{Event, PREFIX, Session},
};
use quinn_proto::{ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, Transmit};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{
    certified::{AUTHORITY, configurations},
    played::{Peer, Played},
};

/// One direction of a path.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Path {
    pub(crate) latency: Duration,
    /// Added to the latency, from nothing to this.
    pub(crate) jitter: Duration,
    pub(crate) loss: f64,
    pub(crate) duplicates: f64,
    /// The largest UDP payload that passes.
    pub(crate) mtu: usize,
    /// Nothing passes.
    pub(crate) is_dead: bool,
    /// The slowest link on it.
    pub(crate) bottleneck: Option<Bottleneck>,
}

/// A link with a buffer in front of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bottleneck {
    /// Bits per second, headers of IPv4 and UDP included.
    pub(crate) rate: u64,
    /// As long as what waits takes at this rate.
    pub(crate) buffer: Duration,
}

impl Bottleneck {
    fn takes(self, bytes: usize) -> Duration {
        Duration::from_nanos((bytes as u64 + 28) * 8 * 1_000_000_000 / self.rate)
    }
}

impl Path {
    pub(crate) const GOOD: Self = Self {
        latency: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicates: 0.0,
        mtu: 1472,
        is_dead: false,
        bottleneck: None,
    };
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// An end of the connection, with what happened there.
pub(crate) struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Peer)>,
    pub(crate) address: SocketAddr,
    pub(crate) events: Vec<Event>,
    pub(crate) packets: Vec<Bytes>,
    /// UDP datagrams that it sent.
    pub(crate) sent: u64,
    /// Bytes in them.
    pub(crate) sent_bytes: u64,
}

impl End {
    pub(crate) fn session(&mut self) -> &mut Session {
        match &mut self.connection {
            Some((_, Peer::Session(session))) => session,
            _ => panic!("no session here"),
        }
    }

    pub(crate) fn played(&mut self) -> &mut Played {
        match &mut self.connection {
            Some((_, Peer::Played(played))) => played,
            _ => panic!("no played peer here"),
        }
    }

    pub(crate) fn is_open(&self) -> bool {
        matches!(&self.connection, Some((_, Peer::Session(session))) if session.is_open())
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|(_, peer)| peer.is_connected())
    }

    /// Takes an event of this kind out, if there is one.
    pub(crate) fn take(&mut self, wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        let index = self.events.iter().position(wanted)?;
        Some(self.events.remove(index))
    }
}

/// A datagram under way.
struct Flight {
    due: Instant,
    number: u64,
    to: Side,
    from: SocketAddr,
    content: BytesMut,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    /// The earliest is the greatest.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) client: End,
    pub(crate) server: End,
    pub(crate) up: Path,
    pub(crate) down: Path,
    /// Whether the server says yes by itself.
    pub(crate) accepts: bool,
    /// Times that the clock was turned with no datagram to arrive.
    pub(crate) ticks: u64,
    /// The last datagrams that were sent, and to whom.
    pub(crate) recent: VecDeque<(Side, Vec<u8>)>,
    /// Who is played by the test.
    played: Option<Side>,
    /// When the link of this direction will have sent all that waits for it.
    busy_until: [Instant; 2],
    flights: BinaryHeap<Flight>,
    number: u64,
    rng: StdRng,
    /// A NAT in front of the client: it forgets a binding after so long without a datagram from inside, and gives the next one the same
    /// port.
    pub(crate) nat: Option<Duration>,
    nat_used: Instant,
}

impl World {
    /// Both ends, and the first packet of the client on its way.
    pub(crate) fn new(seed: u64) -> Self {
        Self::between(seed, ConnectRequest::new(AUTHORITY), None)
    }

    /// As [`World::new`], with a peer that the test plays, once it is connected.
    pub(crate) fn played(side: Side) -> Self {
        let mut world = Self::between(1, ConnectRequest::new(AUTHORITY), Some(side));
        world.run_until(Duration::from_secs(1), |world| world.client.is_connected() && world.server.is_connected());
        world
    }

    pub(crate) fn between(seed: u64, request: ConnectRequest, played: Option<Side>) -> Self {
        let (client_config, server_config) = configurations();
        let now = Instant::now();
        let endpoint = |server| Endpoint::new(Arc::new(EndpointConfig::default()), server, true, None);
        let end = |endpoint, address: &str| End {
            endpoint,
            connection: None,
            address: address.parse().unwrap(),
            events: Vec::new(),
            packets: Vec::new(),
            sent: 0,
            sent_bytes: 0,
        };
        let mut client = end(endpoint(None), "192.0.2.2:50000");
        let server = end(endpoint(Some(Arc::new(server_config))), "198.51.100.10:443");
        let (handle, quic) = client.endpoint.connect(now, client_config, server.address, AUTHORITY).unwrap();
        let peer = match played {
            Some(Side::Client) => Peer::Played(Box::new(Played::new(quic))),
            _ => Peer::Session(Box::new(Session::client(quic, request, now))),
        };
        client.connection = Some((handle, peer));
        Self {
            now,
            client,
            server,
            up: Path::GOOD,
            down: Path::GOOD,
            accepts: true,
            ticks: 0,
            recent: VecDeque::new(),
            played,
            busy_until: [now; 2],
            nat: None,
            nat_used: now,
            flights: BinaryHeap::new(),
            number: 0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// As [`World::new`], with the tunnel open.
    pub(crate) fn open(seed: u64) -> Self {
        let mut world = Self::new(seed);
        world.run_until(Duration::from_secs(5), |world| world.client.is_open() && world.server.is_open());
        assert!(world.client.is_open() && world.server.is_open(), "{:?}", world.client.events);
        world
    }

    pub(crate) fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Client => &mut self.client,
            Side::Server => &mut self.server,
        }
    }

    /// Lets time pass until `done`, at most for `limit`; how long it took.
    pub(crate) fn run_until(&mut self, limit: Duration, done: impl Fn(&mut Self) -> bool) -> Duration {
        let start = self.now;
        let mut standing = 0;
        self.drive();
        while !done(self) {
            let Some(next) = self.next_time().filter(|next| *next <= start + limit) else {
                self.now = start + limit;
                self.drive();
                break;
            };
            standing = if next > self.now { 0 } else { standing + 1 };
            assert!(standing < 100, "the clock stands still: a timer that is over stays");
            self.ticks += u64::from(self.flights.peek().is_none_or(|flight| flight.due > next));
            self.now = self.now.max(next);
            self.drive();
        }
        self.now - start
    }

    /// Lets time pass.
    pub(crate) fn run(&mut self, time: Duration) {
        self.run_until(time, |_| false);
    }

    /// Sends an IP packet from one end.
    pub(crate) fn send(&mut self, from: Side, packet: &[u8]) {
        let now = self.now;
        let datagram = [&PREFIX, packet].concat();
        self.end(from).session().send(datagram.into(), now).unwrap();
    }

    /// A datagram that nobody sent, to be delivered at once.
    pub(crate) fn inject(&mut self, to: Side, content: &[u8]) {
        let from = self.end(to.other()).address;
        self.deliver(Flight { due: self.now, number: 0, to, from, content: content.into() });
    }

    fn next_time(&mut self) -> Option<Instant> {
        let flight = self.flights.peek().map(|flight| flight.due);
        let timers = [Side::Client, Side::Server].map(|side| {
            let (_, peer) = self.end(side).connection.as_mut()?;
            peer.poll_timeout()
        });
        timers.into_iter().chain([flight]).flatten().min()
    }

    /// Does everything that is due now.
    pub(crate) fn drive(&mut self) {
        loop {
            let mut is_quiet = true;
            while self.flights.peek().is_some_and(|flight| flight.due <= self.now) {
                let Some(flight) = self.flights.pop() else { break };
                self.deliver(flight);
                is_quiet = false;
            }
            for side in [Side::Client, Side::Server] {
                is_quiet &= !self.drive_end(side);
            }
            if is_quiet {
                return;
            }
        }
    }

    fn drive_end(&mut self, side: Side) -> bool {
        let (now, accepts) = (self.now, self.accepts);
        let end = self.end(side);
        let Some((handle, peer)) = &mut end.connection else { return false };
        peer.handle_timeout(now);
        if let Peer::Session(session) = peer {
            while let Some(packet) = session.recv() {
                end.packets.push(packet);
            }
        }
        let mut transmits = Vec::new();
        loop {
            while let Some(event) = peer.poll_endpoint_event() {
                if let Some(event) = end.endpoint.handle_event(*handle, event) {
                    peer.handle_event(event);
                }
            }
            peer.settle(now, accepts, &mut end.events);
            let mut buffer = Vec::new();
            let Some(transmit) = peer.poll_transmit(now, 10, &mut buffer) else { break };
            transmits.push((transmit, buffer));
        }
        // What was learned by sending.
        peer.settle(now, accepts, &mut end.events);
        let in_capsules = end.events.extract_if(.., |event| matches!(event, Event::Packet(_)));
        end.packets.extend(
            in_capsules.filter_map(|event| if let Event::Packet(packet) = event { Some(packet) } else { None }),
        );
        let is_busy = !transmits.is_empty();
        for (transmit, buffer) in transmits {
            self.fly(side, &transmit, &buffer);
        }
        is_busy
    }

    fn fly(&mut self, from: Side, transmit: &Transmit, content: &[u8]) {
        let path = if from == Side::Client { self.up } else { self.down };
        if from == Side::Client {
            self.nat_used = self.now;
        }
        let is_unknown = self.nat.is_some_and(|patience| self.now - self.nat_used > patience);
        let path = Path { is_dead: path.is_dead || is_unknown, ..path };
        let address = self.end(from).address;
        for datagram in content.chunks(transmit.segment_size.unwrap_or(content.len())) {
            self.end(from).sent += 1;
            self.end(from).sent_bytes += datagram.len() as u64;
            self.remember(from.other(), datagram);
            let copies = if self.rng.random_bool(path.duplicates) { 2 } else { 1 };
            for _ in 0..copies {
                if path.is_dead || datagram.len() > path.mtu || self.rng.random_bool(path.loss) {
                    continue;
                }
                let Some(waits) = self.pass(from, path, datagram.len()) else { continue };
                let late = path.jitter.mul_f64(self.rng.random_range(0.0..=1.0));
                self.number += 1;
                self.flights.push(Flight {
                    due: self.now + waits + path.latency + late,
                    number: self.number,
                    to: from.other(),
                    from: address,
                    content: datagram.into(),
                });
            }
        }
    }

    /// How long a datagram takes to be through the slowest link; `None` when there is no room for it.
    fn pass(&mut self, from: Side, path: Path, bytes: usize) -> Option<Duration> {
        let Some(link) = path.bottleneck else { return Some(Duration::ZERO) };
        let busy_until = &mut self.busy_until[from as usize];
        let waits = busy_until.saturating_duration_since(self.now);
        if waits > link.buffer {
            return None;
        }
        let sent = waits + link.takes(bytes);
        *busy_until = self.now + sent;
        Some(sent)
    }

    fn remember(&mut self, to: Side, datagram: &[u8]) {
        if self.recent.len() == 32 {
            self.recent.pop_front();
        }
        self.recent.push_back((to, datagram.to_vec()));
    }

    fn deliver(&mut self, flight: Flight) {
        let (now, is_played) = (self.now, self.played == Some(flight.to));
        let end = self.end(flight.to);
        let mut answer = Vec::new();
        let event = end.endpoint.handle(now, flight.from, None, None, flight.content, &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((own, peer)) = &mut end.connection
                    && *own == handle
                {
                    peer.handle_event(event);
                }
            }
            // One that was sent again by somebody else.
            Some(DatagramEvent::NewConnection(incoming)) if end.connection.is_some() => end.endpoint.ignore(incoming),
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = end.endpoint.accept(incoming, now, &mut answer, None);
                let (handle, quic) = accepted.unwrap_or_else(|error| panic!("{}", error.cause));
                let peer = if is_played {
                    Peer::Played(Box::new(Played::new(quic)))
                } else {
                    Peer::Session(Box::new(Session::server(quic, Arc::default(), now)))
                };
                end.connection = Some((handle, peer));
            }
            Some(DatagramEvent::Response(transmit)) => {
                let content = answer[..transmit.size].to_vec();
                self.fly(flight.to, &transmit, &content);
            }
            None => {}
        }
    }
}
