//! A tunnel over one QUIC connection, without I/O: HTTP/3, the CONNECT-IP request, capsules, packets.
//!
//! The owner of a [`Session`] feeds it what its endpoint has for it ([`Session::handle_event`]) and the time
//! ([`Session::handle_timeout`] when [`Session::poll_timeout`] is reached), then calls [`Session::settle`], takes events
//! ([`Session::poll_event`]), packets ([`Session::recv`]) and UDP datagrams ([`Session::poll_transmit`]) until there are none.

mod ending;
mod event;
mod handshake;
mod liveness;
mod streams;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::StatusCode;
use quinn_proto::{Connection, ConnectionEvent, EndpointEvent, StreamId, Transmit};
use rustls::pki_types::CertificateDer;

pub use ending::CloseReason;
pub(crate) use ending::{MAX_REASON, printable};
pub use event::Event;

use crate::{
    capsule::{AssignedAddress, Capsule, CapsuleReader, RequestedAddress},
    client::ConnectRequest,
    congestion,
    http3::{
        Code, ProtocolError,
        datagram::{self, IP_CONTEXT},
        message::Request,
        settings::Settings,
    },
    queue::Queue,
    routes::{IpRange, normalize},
    scope::Scope,
    server::REQUEST_TIMEOUT,
    template::Matcher,
};
use liveness::{Due, Frames, Liveness, News};
use streams::{Happening, Streams, code_of};

/// What a packet must be preceded by to be given to [`Session::send`]: room for the stream and the context of HTTP datagrams.
///
/// A connection carries one tunnel, and its request is the first one, so that the quarter stream id is 0 (RFC 9297 §2.1), as is the
/// context of IP packets (RFC 9484 §6).
pub const PREFIX: [u8; 2] = [0, 0];

/// Bytes of packets that may wait for the path.
const QUEUE: usize = 1 << 20;

/// How long a refused client may take to acknowledge the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of a refusal that are read.
const MAX_REFUSAL: usize = 1024;

/// What QUIC is given at once of what waits: as much as the path takes in this time, for what QUIC has nobody sorts any more.
const AHEAD: Duration = Duration::from_millis(2);

/// A tunnel over one QUIC connection.
#[derive(Debug)]
pub struct Session {
    quic: Connection,
    streams: Streams,
    /// Where a server's tunnels are.
    matcher: Arc<Matcher>,
    phase: Phase,
    queue: Queue,
    liveness: Liveness,
    /// When a server sends back an echo, and which. One at a time.
    echo: Option<(Instant, Duration)>,
    events: VecDeque<Event>,
    ending: Option<CloseReason>,
    /// When the peer is late with the next step of the handshake.
    deadline: Option<Instant>,
    max_packet_size: usize,
    /// When the session was settled last.
    settled: Instant,
    /// Room in QUIC's own queue when it is empty.
    quic_room: usize,
}

#[derive(Debug)]
enum Phase {
    /// A client waits for SETTINGS.
    Connecting(ConnectRequest),
    /// A client waits for the answer.
    Asked { stream: StreamId },
    /// A client reads why it is refused.
    Refused { stream: StreamId, status: StatusCode, text: Vec<u8> },
    /// A server waits for SETTINGS and a request.
    Listening { settings: Option<Settings>, request: Option<(StreamId, Request, Scope)> },
    /// A server waits for the program's word.
    Requested { stream: StreamId },
    /// A server waits until the client knows that it is refused.
    Rejecting { stream: StreamId },
    /// The tunnel.
    Open { stream: StreamId, capsules: CapsuleReader },
    /// Nothing more comes.
    Over,
}

impl Session {
    /// The device's end of a connection that has just been begun. It asks for the tunnel as soon as it can.
    #[must_use]
    pub fn client(quic: Connection, request: ConnectRequest, now: Instant) -> Self {
        let deadline = now + request.timeout;
        Self::new(quic, Phase::Connecting(request), deadline, now)
    }

    /// The gateway's end of a connection that has just been accepted. Requests for anything but a tunnel are answered by themselves:
    /// 404 (GET, HEAD), 501, or 400 for a path that does not follow the template of `matcher`.
    #[must_use]
    pub fn server(quic: Connection, matcher: Arc<Matcher>, now: Instant) -> Self {
        let phase = Phase::Listening { settings: None, request: None };
        Self { matcher, ..Self::new(quic, phase, now + REQUEST_TIMEOUT, now) }
    }

    fn new(mut quic: Connection, phase: Phase, deadline: Instant, now: Instant) -> Self {
        Self {
            quic_room: quic.datagrams().send_buffer_space(),
            streams: Streams::new(quic.side().is_server()),
            quic,
            matcher: Arc::default(),
            phase,
            queue: Queue::new(QUEUE, PREFIX.len()),
            liveness: Liveness::new(None, now),
            echo: None,
            events: VecDeque::new(),
            ending: None,
            deadline: Some(deadline),
            max_packet_size: 0,
            settled: now,
        }
    }

    /// Takes what the endpoint has for this connection. [`settle`](Self::settle) once after all of it.
    pub fn handle_event(&mut self, event: ConnectionEvent) {
        self.quic.handle_event(event);
    }

    /// Does what is due at `now`. [`settle`](Self::settle) after it.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.quic.handle_timeout(now);
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            self.late(now);
        }
        if let Some((_, delay)) = self.echo.take_if(|(due, _)| *due <= now) {
            self.tell(&Capsule::Echo(delay));
        }
        match self.liveness.due(self.quic.rtt(), now) {
            Some(Due::Ping) if self.is_open() => self.quic.ping(),
            Some(Due::Echo(delay)) if self.is_open() => self.tell(&Capsule::Echo(delay)),
            Some(Due::Silent) if self.is_open() => self.events.push_back(Event::Silent(self.liveness.silence(now))),
            _ => {}
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub fn poll_timeout(&mut self) -> Option<Instant> {
        let liveness = if self.is_open() { self.liveness.deadline(self.quic.rtt()) } else { None };
        let echo = self.echo.map(|(due, _)| due);
        [self.quic.poll_timeout(), self.deadline, liveness, echo].into_iter().flatten().min()
    }

    /// Draws the conclusions from what was handled.
    pub fn settle(&mut self, now: Instant) {
        self.settled = now;
        if let Err(error) = self.draw_conclusions(now) {
            self.fail(&error, now);
        }
        if self.is_open() {
            self.observe(now);
        }
        self.drop_early_packets();
    }

    /// What happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// What the endpoint has to know.
    pub fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        self.quic.poll_endpoint_events()
    }

    /// Appends UDP datagrams to the empty `buffer`, at most `max_datagrams` of one size. To be called until it gives `None`.
    pub fn poll_transmit(&mut self, now: Instant, max_datagrams: usize, buffer: &mut Vec<u8>) -> Option<Transmit> {
        self.feed(max_datagrams, now);
        let transmit = self.quic.poll_transmit(now, max_datagrams, buffer);
        if transmit.is_none() && self.is_open() {
            self.observe(now);
        }
        transmit
    }

    /// Queues an IP packet behind [`PREFIX`]. Best effort as IP is: the queue may lose it, or another one.
    ///
    /// # Errors
    /// [`SendError`].
    pub fn send(&mut self, datagram: Bytes, now: Instant) -> Result<(), SendError> {
        if !self.is_open() {
            return Err(SendError::NotOpen);
        }
        if datagram.len() > self.max_packet_size + PREFIX.len() {
            return Err(SendError::TooLarge { max: self.max_packet_size });
        }
        self.queue.push(datagram, now);
        Ok(())
    }

    /// The next IP packet, as the peer sent it: to be checked with [`crate::packet`].
    pub fn recv(&mut self) -> Option<Bytes> {
        if !self.is_open() {
            return None;
        }
        while let Some(received) = self.quic.datagrams().recv() {
            // The common case by hand: `read` is for all the others.
            if let Some(packet) = received.strip_prefix(&PREFIX) {
                return Some(received.slice_ref(packet));
            }
            match datagram::read(received) {
                // Other spellings of the same numbers.
                Ok(Some(other)) if other.stream == 0 && other.context == IP_CONTEXT => return Some(other.payload),
                // Those of other streams and contexts are dropped (RFC 9297 §2.1, RFC 9484 §6).
                Ok(_) => {}
                Err(error) => {
                    self.fail(&error, self.settled);
                    return None;
                }
            }
        }
        None
    }

    /// The packets that wait in the queue.
    pub fn take_waiting(&mut self, now: Instant) -> Vec<Bytes> {
        std::iter::from_fn(|| self.queue.pop(now)).collect()
    }

    /// Sends ADDRESS_ASSIGN: all addresses that the peer has from now on.
    pub fn assign_addresses(&mut self, addresses: Vec<AssignedAddress>) {
        self.tell(&Capsule::AddressAssign(addresses));
    }

    /// Sends ADDRESS_REQUEST.
    pub fn request_addresses(&mut self, addresses: Vec<RequestedAddress>) {
        self.tell(&Capsule::AddressRequest(addresses));
    }

    /// Sends ROUTE_ADVERTISEMENT: all ranges that the peer reaches through this side from now on, put in [normal form](normalize).
    pub fn advertise_routes(&mut self, routes: Vec<IpRange>) {
        self.tell(&Capsule::RouteAdvertisement(normalize(routes)));
    }

    /// Sends GOAWAY: this side is about to leave, the peer should move to another gateway. The session goes on until it is closed.
    pub fn go_away(&mut self) {
        let Phase::Open { stream, .. } = self.phase else { return };
        // A server names the first stream that it does not serve any more, a client the first push (RFC 9114 §5.2).
        let id = if self.quic.side().is_server() { u64::from(stream) + 4 } else { 0 };
        self.streams.send_goaway(&mut self.quic, id);
    }

    /// Closes the tunnel and its connection. The peer sees `reason`, at most 256 bytes of it.
    pub fn close(&mut self, code: Code, reason: &str, now: Instant) {
        self.end(CloseReason::Local, code, reason, now);
    }

    /// The silence, in both directions, after which a ping is sent; `None` for no pings.
    pub fn set_keepalive(&mut self, interval: Option<Duration>) {
        self.liveness.set_keepalive(interval);
    }

    /// Sends a ping now: [`Event::Answers`] or [`Event::Silent`] tells whether the peer is there.
    pub fn ping(&mut self) {
        self.liveness.ask();
        self.quic.ping();
    }

    /// This side has another address from now on (RFC 9000 §9): what was learned about the old path does not count any more.
    pub fn address_changed(&mut self, now: Instant) {
        self.quic.local_address_changed();
        self.quic.path_changed(now);
    }

    /// The largest IP packet in bytes that one datagram of the path carries now; 0 before the tunnel is open.
    #[must_use]
    pub fn max_packet_size(&self) -> usize {
        self.max_packet_size
    }

    /// The largest UDP payload in bytes that the path carries now.
    #[must_use]
    pub fn datagram_size(&self) -> u16 {
        self.quic.current_mtu()
    }

    /// Whether [`poll_event`](Self::poll_event) has something.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Where the peer is.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// The path's round trip time, smoothed (RFC 9002 §5.3).
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.quic.rtt()
    }

    /// The peer's certificate chain, leaf first, once the handshake is over; empty when it showed none.
    #[must_use]
    pub fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let identity = self.quic.crypto_session().peer_identity();
        let chain = identity.and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
        chain.map(|chain| *chain).unwrap_or_default()
    }

    /// Packets that the queue lost, and packets that it marked.
    #[must_use]
    pub fn queue_signals(&self) -> (u64, u64) {
        self.queue.signals()
    }

    /// Whether the connection may be forgotten: it is closed, and the peer had time to know.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.quic.is_drained()
    }

    /// Whether packets pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.phase, Phase::Open { .. })
    }

    fn draw_conclusions(&mut self, now: Instant) -> Result<(), ProtocolError> {
        self.streams.open_control(&mut self.quic);
        while let Some(event) = self.quic.poll() {
            match event {
                quinn_proto::Event::Connected => self.events.push_back(Event::Connected),
                quinn_proto::Event::ConnectionLost { reason } => self.over(reason.into()),
                quinn_proto::Event::Stream(event) => self.streams.handle(&mut self.quic, event)?,
                quinn_proto::Event::HandshakeDataReady
                | quinn_proto::Event::DatagramReceived
                | quinn_proto::Event::DatagramsUnblocked => {}
            }
        }
        while let Some(happening) = self.streams.next() {
            self.happened(happening, now)?;
        }
        self.ask();
        self.streams.check_waiting()
    }

    /// Packets before there is a tunnel are for nobody (RFC 9297 §2.1). A device takes those that overtook the answer.
    fn drop_early_packets(&mut self) {
        if self.is_open() || self.quic.side().is_client() {
            return;
        }
        while self.quic.datagrams().recv().is_some() {}
    }

    fn happened(&mut self, happening: Happening, now: Instant) -> Result<(), ProtocolError> {
        match happening {
            Happening::Settings(settings) => self.peer_settings(settings, now)?,
            Happening::GoAway(id) => match self.phase {
                // The server does not process requests from this id on, and wants no new ones (RFC 9114 §5.2).
                Phase::Asked { stream } if id > u64::from(stream) => self.events.push_back(Event::GoAway),
                Phase::Connecting(_) | Phase::Asked { .. } => {
                    let reason = CloseReason::Peer { code: Code::REQUEST_REJECTED, reason: "going away".into() };
                    self.end(reason, Code::NO_ERROR, "", now);
                }
                _ => self.events.push_back(Event::GoAway),
            },
            Happening::Fields(stream, fields) => self.fields(stream, fields, now)?,
            Happening::Content(stream, content) => self.content(stream, &content, now)?,
            Happening::Ended(stream) => self.ended(stream, now)?,
            Happening::Reset(stream, code) => match &self.phase {
                Phase::Asked { stream: own } | Phase::Open { stream: own, .. } if *own == stream => {
                    self.end(CloseReason::Peer { code, reason: String::new() }, Code::NO_ERROR, "", now);
                }
                Phase::Refused { stream: own, .. } if *own == stream => self.refused(now),
                Phase::Rejecting { stream: own } if *own == stream => self.close(Code::NO_ERROR, "refused", now),
                Phase::Requested { stream: own } if *own == stream => {
                    self.end(CloseReason::Ended, Code::NO_ERROR, "", now);
                }
                _ => {}
            },
            Happening::Delivered(stream) => {
                if matches!(self.phase, Phase::Rejecting { stream: own } if own == stream) {
                    self.close(Code::NO_ERROR, "refused", now);
                }
            }
        }
        Ok(())
    }

    fn content(&mut self, stream: StreamId, content: &Bytes, now: Instant) -> Result<(), ProtocolError> {
        match &mut self.phase {
            Phase::Open { stream: own, capsules } if *own == stream => {
                capsules.push(content);
                while let Some(capsule) = capsules.next_capsule()? {
                    self.events.push_back(match capsule {
                        Capsule::AddressAssign(addresses) => Event::AddressesAssigned(addresses),
                        Capsule::AddressRequest(addresses) => Event::AddressesRequested(addresses),
                        Capsule::RouteAdvertisement(ranges) => Event::RoutesAdvertised(ranges),
                        Capsule::Echo(delay) if self.quic.side().is_server() => {
                            self.echo = Some((now + delay.min(LONGEST_ECHO), delay));
                            continue;
                        }
                        Capsule::Echo(delay) => match self.liveness.echoed(delay, now) {
                            Some(news) => news.into(),
                            None => continue,
                        },
                        Capsule::Datagram(payload) => match crate::varint::read(&payload) {
                            Some((IP_CONTEXT, size)) => Event::Packet(payload.slice(size..)),
                            _ => continue,
                        },
                    });
                    if self.events.len() > MAX_EVENTS {
                        return Err(ProtocolError::new(Code::EXCESSIVE_LOAD, "too many capsules at once"));
                    }
                }
            }
            Phase::Refused { stream: own, text, .. } if *own == stream => {
                text.extend_from_slice(content);
                if text.len() >= MAX_REFUSAL {
                    self.refused(now);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ended(&mut self, stream: StreamId, now: Instant) -> Result<(), ProtocolError> {
        match &self.phase {
            Phase::Open { stream: own, capsules } if *own == stream => {
                capsules.finish()?;
                self.end(CloseReason::Ended, Code::NO_ERROR, "", now);
            }
            Phase::Asked { stream: own } | Phase::Requested { stream: own } if *own == stream => {
                self.end(CloseReason::Ended, Code::NO_ERROR, "", now);
            }
            Phase::Refused { stream: own, .. } if *own == stream => self.refused(now),
            _ => {}
        }
        Ok(())
    }

    fn open(&mut self, stream: StreamId) {
        self.streams.expect_tunnel(stream);
        self.phase = Phase::Open { stream, capsules: CapsuleReader::default() };
        self.deadline = None;
        self.measure();
    }

    fn tell(&mut self, capsule: &Capsule) {
        let Phase::Open { stream, .. } = self.phase else { return };
        let mut out = Vec::new();
        capsule.encode(&mut out);
        self.streams.send_content(&mut self.quic, stream, &out);
    }

    fn late(&mut self, now: Instant) {
        match self.phase {
            Phase::Rejecting { .. } => self.close(Code::NO_ERROR, "refused", now),
            Phase::Refused { .. } => self.refused(now),
            Phase::Listening { .. } => {
                self.end(CloseReason::TimedOut, Code::REQUEST_INCOMPLETE, "no request in time", now)
            }
            _ => self.end(CloseReason::TimedOut, Code::REQUEST_CANCELLED, "no answer in time", now),
        }
    }

    fn fail(&mut self, error: &ProtocolError, now: Instant) {
        log::debug!("protocol error of the peer: {error}");
        let reason = CloseReason::Protocol { code: error.code, reason: error.reason.clone().into_owned() };
        self.end(reason, error.code, &error.reason, now);
    }

    fn end(&mut self, reason: CloseReason, code: Code, text: &str, now: Instant) {
        if self.ending.is_some() {
            return;
        }
        let text = text.get(..text.floor_char_boundary(MAX_REASON)).unwrap_or_default();
        self.quic.close(now, code_of(code), Bytes::copy_from_slice(text.as_bytes()));
        congestion::let_out(&self.quic);
        self.over(reason);
    }

    fn over(&mut self, reason: CloseReason) {
        self.phase = Phase::Over;
        self.deadline = None;
        // The first reason stays.
        if self.ending.is_none() {
            self.ending = Some(reason.clone());
            self.events.push_back(Event::Closed(reason));
        }
    }

    /// Gives QUIC what it can send soon of what waits.
    fn feed(&mut self, max_datagrams: usize, now: Instant) {
        if self.queue.is_empty() {
            return;
        }
        let mtu = usize::from(self.quic.current_mtu());
        let window = self.quic.congestion_state().window();
        let soon = u128::from(window) * AHEAD.as_nanos() / self.quic.rtt().as_nanos().max(1);
        let ahead = usize::try_from(soon).unwrap_or(usize::MAX).clamp(mtu, max_datagrams.max(1) * mtu);
        let mut datagrams = self.quic.datagrams();
        while self.quic_room - datagrams.send_buffer_space() < ahead {
            let Some(packet) = self.queue.pop(now) else { return };
            // One that is too large by now is lost: the next one of its size is answered.
            let _ = datagrams.send(packet, false);
        }
    }

    fn observe(&mut self, now: Instant) {
        let stats = self.quic.stats();
        let (sent, received) = (stats.frame_tx, stats.frame_rx);
        let frames = Frames {
            sent: sent.datagram + sent.ping + sent.stream,
            received: received.acks + received.datagram + received.ping + received.stream,
            data: received.datagram + received.stream,
            challenges: received.path_challenge,
        };
        self.events.extend(self.liveness.observe(frames, now).map(Event::from));
        self.measure();
    }

    fn measure(&mut self) {
        let datagram = self.quic.datagrams().max_size().unwrap_or_default();
        let size = datagram.saturating_sub(PREFIX.len());
        if size != self.max_packet_size {
            self.max_packet_size = size;
            self.events.push_back(Event::PacketSize(size));
        }
    }
}

impl From<News> for Event {
    fn from(news: News) -> Self {
        match news {
            News::Answers => Self::Answers,
            News::Kept(silence) => Self::BindingKept(silence),
            News::Rebound(silence) => Self::BindingLost(silence),
        }
    }
}

/// No echo waits longer.
const LONGEST_ECHO: Duration = Duration::from_secs(3600);

/// Capsules that wait for the program.
const MAX_EVENTS: usize = 64;

/// Why a packet was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The packet is larger than the path carries; tell its sender with [`crate::packet::icmp`].
    #[error("packet too large: the path carries {max} bytes")]
    TooLarge {
        /// The largest packet in bytes.
        max: usize,
    },
    /// There is no tunnel, or no tunnel any more.
    #[error("the tunnel is not open")]
    NotOpen,
}
