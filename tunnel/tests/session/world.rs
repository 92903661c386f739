//! Two ends of a tunnel, a network between them, and a clock that the test turns.

use std::{
    collections::BinaryHeap,
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

use crate::certified::{AUTHORITY, configurations};

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
}

impl Path {
    pub(crate) const GOOD: Self = Self {
        latency: Duration::from_millis(10),
        jitter: Duration::ZERO,
        loss: 0.0,
        duplicates: 0.0,
        mtu: 1472,
        is_dead: false,
    };
}

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// An end of the connection, with what happened there.
pub(crate) struct End {
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Session)>,
    pub(crate) address: SocketAddr,
    pub(crate) events: Vec<Event>,
    pub(crate) packets: Vec<Bytes>,
    /// UDP datagrams that it sent.
    pub(crate) sent: u64,
}

impl End {
    pub(crate) fn session(&mut self) -> &mut Session {
        &mut self.connection.as_mut().expect("a session").1
    }

    pub(crate) fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|(_, session)| session.is_open())
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
    flights: BinaryHeap<Flight>,
    number: u64,
    rng: StdRng,
}

impl World {
    /// Both ends, and the first packet of the client on its way.
    pub(crate) fn new(seed: u64) -> Self {
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
        };
        let mut client = end(endpoint(None), "192.0.2.2:50000");
        let server = end(endpoint(Some(Arc::new(server_config))), "198.51.100.10:443");
        let (handle, quic) = client.endpoint.connect(now, client_config, server.address, AUTHORITY).unwrap();
        client.connection = Some((handle, Session::client(quic, ConnectRequest::new(AUTHORITY), now)));
        Self {
            now,
            client,
            server,
            up: Path::GOOD,
            down: Path::GOOD,
            accepts: true,
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
        self.drive();
        while !done(self) {
            let Some(next) = self.next_time().filter(|next| *next <= start + limit) else {
                self.now = start + limit;
                self.drive();
                break;
            };
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
            let (_, session) = self.end(side).connection.as_mut()?;
            if session.is_drained() { None } else { session.poll_timeout() }
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
        let Some((handle, session)) = &mut end.connection else { return false };
        if session.poll_timeout().is_some_and(|due| due <= now) && !session.is_drained() {
            session.handle_timeout(now);
        }
        session.settle(now);
        while let Some(event) = session.poll_event() {
            if accepts && matches!(event, Event::Requested(_)) {
                session.accept();
            }
            if let Event::Packet(packet) = &event {
                end.packets.push(packet.clone());
            }
            end.events.push(event);
        }
        while let Some(packet) = session.recv() {
            end.packets.push(packet);
        }
        let mut transmits = Vec::new();
        loop {
            while let Some(event) = session.poll_endpoint_event() {
                if let Some(event) = end.endpoint.handle_event(*handle, event) {
                    session.handle_event(event);
                }
            }
            let mut buffer = Vec::new();
            let Some(transmit) = session.poll_transmit(now, 10, &mut buffer) else { break };
            transmits.push((transmit, buffer));
        }
        let is_busy = !transmits.is_empty();
        for (transmit, buffer) in transmits {
            self.fly(side, &transmit, &buffer);
        }
        is_busy
    }

    fn fly(&mut self, from: Side, transmit: &Transmit, content: &[u8]) {
        let path = if from == Side::Client { self.up } else { self.down };
        let address = self.end(from).address;
        for datagram in content.chunks(transmit.segment_size.unwrap_or(content.len())) {
            self.end(from).sent += 1;
            let copies = if self.rng.random_bool(path.duplicates) { 2 } else { 1 };
            for _ in 0..copies {
                if path.is_dead || datagram.len() > path.mtu || self.rng.random_bool(path.loss) {
                    continue;
                }
                let late = path.jitter.mul_f64(self.rng.random_range(0.0..=1.0));
                self.number += 1;
                self.flights.push(Flight {
                    due: self.now + path.latency + late,
                    number: self.number,
                    to: from.other(),
                    from: address,
                    content: datagram.into(),
                });
            }
        }
    }

    fn deliver(&mut self, flight: Flight) {
        let now = self.now;
        let end = self.end(flight.to);
        let mut answer = Vec::new();
        let event = end.endpoint.handle(now, flight.from, None, None, flight.content, &mut answer);
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some((own, session)) = &mut end.connection
                    && *own == handle
                {
                    session.handle_event(event);
                }
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = end.endpoint.accept(incoming, now, &mut answer, None);
                let (handle, quic) = accepted.unwrap_or_else(|error| panic!("{}", error.cause));
                end.connection = Some((handle, Session::server(quic, now)));
            }
            Some(DatagramEvent::Response(transmit)) => {
                let content = answer[..transmit.size].to_vec();
                self.fly(flight.to, &transmit, &content);
            }
            None => {}
        }
    }
}
