//! A UDP socket and the sessions over it, for one task: whatever happens to a packet happens there, without locks and queues between.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
pub use quinn_proto::{
    ClientConfig, ConnectError, ConnectionHandle, ConnectionId, ConnectionIdGenerator, EndpointConfig, Incoming,
    ServerConfig,
};
use quinn_proto::{DatagramEvent, Endpoint, Transmit};

use crate::{
    client::ConnectRequest,
    http3::Code,
    session::Session,
    template::Matcher,
    udp::{Received, UdpSocket},
};

/// A UDP socket and the sessions over it.
///
/// A task that has one waits for [`poll_ready`](Self::poll_ready) or [`poll_timeout`](Self::poll_timeout); then it calls [`receive`](Self::receive), [`handle_timeout`](Self::handle_timeout), looks after
/// the sessions that [`next_changed`](Self::next_changed) names, and ends with [`transmit`](Self::transmit).
pub struct Hub {
    socket: UdpSocket,
    endpoint: Endpoint,
    matcher: Arc<Matcher>,
    /// By handle: the endpoint gives small numbers, and gives them again.
    sessions: Vec<Option<Box<Entry>>>,
    count: usize,
    timers: BTreeSet<(Instant, ConnectionHandle)>,
    /// Sessions that something happened to.
    changed: Vec<ConnectionHandle>,
    /// Sessions that may have something to send.
    sending: Vec<ConnectionHandle>,
    incoming: Vec<Incoming>,
    /// What the socket did not take.
    unsent: Option<(Transmit, Vec<u8>)>,
    buffer: Vec<u8>,
}

/// What a hub that takes connections offers.
#[derive(Debug, Clone)]
pub struct Service {
    /// TLS and transport.
    pub config: ServerConfig,
    /// Where its tunnels are.
    pub matcher: Arc<Matcher>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    timer: Option<Instant>,
    /// The address of this machine that the peer's packets come to.
    local: Option<IpAddr>,
    is_changed: bool,
    is_sending: bool,
}

impl Hub {
    /// A hub that takes connections if there is a `service`.
    #[must_use]
    pub fn new(socket: UdpSocket, endpoint: EndpointConfig, service: Option<Service>) -> Self {
        let finds_mtu = !socket.may_fragment();
        let (server, matcher) = service.map(|Service { config, matcher }| (Arc::new(config), matcher)).unzip();
        Self {
            socket,
            endpoint: Endpoint::new(Arc::new(endpoint), server, finds_mtu, None),
            matcher: matcher.unwrap_or_default(),
            sessions: Vec::new(),
            count: 0,
            timers: BTreeSet::new(),
            changed: Vec::new(),
            sending: Vec::new(),
            incoming: Vec::new(),
            unsent: None,
            buffer: Vec::new(),
        }
    }

    /// Where its socket is bound.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.socket.local()
    }

    /// Begins a session with the gateway at `remote`, whose certificate has to say `server_name`.
    ///
    /// # Errors
    /// When the configuration or the name cannot be used.
    pub fn connect(
        &mut self,
        config: ClientConfig,
        remote: SocketAddr,
        server_name: &str,
        request: ConnectRequest,
        now: Instant,
    ) -> Result<ConnectionHandle, ConnectError> {
        let remote = match (self.socket.local(), remote) {
            // A socket for both families knows IPv4 addresses as mapped ones.
            (SocketAddr::V6(_), SocketAddr::V4(remote)) => (remote.ip().to_ipv6_mapped(), remote.port()).into(),
            _ => remote,
        };
        let (handle, quic) = self.endpoint.connect(now, config, remote, server_name)?;
        self.add(handle, Session::client(quic, request, now));
        Ok(handle)
    }

    /// Takes one burst from the socket; the number of datagrams.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn receive(&mut self, now: Instant) -> io::Result<usize> {
        let Self { socket, endpoint, sessions, changed, incoming, buffer, .. } = self;
        let mut answers = Vec::new();
        let count = socket.try_recv(|Received { remote, local, ecn, content }| {
            buffer.clear();
            match endpoint.handle(now, remote, local, ecn, content, buffer) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    let Some(entry) = entry_of(sessions, handle) else { return };
                    entry.session.handle_event(event);
                    entry.local = local.or(entry.local);
                    if !entry.is_changed {
                        entry.is_changed = true;
                        changed.push(handle);
                    }
                }
                Some(DatagramEvent::NewConnection(new)) => incoming.push(new),
                Some(DatagramEvent::Response(transmit)) => answers.push((transmit, buffer.clone())),
                None => {}
            }
        })?;
        for (transmit, content) in answers {
            self.answer(&transmit, &content);
        }
        Ok(count)
    }

    /// The next connection that somebody wants to make: [`accept`](Self::accept), [`refuse`](Self::refuse) or [`retry`](Self::retry) it.
    pub fn next_incoming(&mut self) -> Option<Incoming> {
        self.incoming.pop()
    }

    /// Begins a session; `None` when the connection failed at once.
    pub fn accept(&mut self, incoming: Incoming, now: Instant) -> Option<ConnectionHandle> {
        self.buffer.clear();
        let mut buffer = std::mem::take(&mut self.buffer);
        let accepted = self.endpoint.accept(incoming, now, &mut buffer, None);
        let accepted = match accepted {
            Ok((handle, quic)) => {
                self.add(handle, Session::server(quic, Arc::clone(&self.matcher), now));
                Some(handle)
            }
            Err(error) => {
                log::debug!("handshake: {}", error.cause);
                if let Some(transmit) = error.response {
                    self.answer(&transmit, &buffer);
                }
                None
            }
        };
        self.buffer = buffer;
        accepted
    }

    /// Tells the client that there is no connection to be had (CONNECTION_REFUSED, RFC 9000 §20.1).
    pub fn refuse(&mut self, incoming: Incoming) {
        let mut buffer = Vec::new();
        let transmit = self.endpoint.refuse(incoming, &mut buffer);
        self.answer(&transmit, &buffer);
    }

    /// Makes the client prove its address first (RFC 9000 §8.1.2), or refuses one that did already.
    pub fn retry(&mut self, incoming: Incoming) {
        let mut buffer = Vec::new();
        match self.endpoint.retry(incoming, &mut buffer) {
            Ok(transmit) => self.answer(&transmit, &buffer),
            Err(error) => self.refuse(error.into_incoming()),
        }
    }

    /// Takes no connections any more; those that are there go on.
    pub fn close_door(&mut self) {
        self.endpoint.set_server_config(None);
    }

    /// The session; what is told to it is sent by the next [`transmit`](Self::transmit).
    pub fn session(&mut self, handle: ConnectionHandle) -> Option<&mut Session> {
        let entry = entry_of(&mut self.sessions, handle)?;
        if !entry.is_sending {
            entry.is_sending = true;
            self.sending.push(handle);
        }
        Some(&mut entry.session)
    }

    /// The address of this machine that the peer's packets come to, once some have.
    #[must_use]
    pub fn local_address(&self, handle: ConnectionHandle) -> Option<IpAddr> {
        self.sessions.get(handle.0)?.as_ref()?.local.map(|address| address.to_canonical())
    }

    /// Queues a packet behind [`PREFIX`](crate::session::PREFIX) for a session.
    ///
    /// # Errors
    /// As [`Session::send`].
    pub fn send(
        &mut self,
        handle: ConnectionHandle,
        datagram: Bytes,
        now: Instant,
    ) -> Result<(), crate::session::SendError> {
        self.session(handle).ok_or(crate::session::SendError::NotOpen)?.send(datagram, now)
    }

    /// The next session that has events or packets.
    pub fn next_changed(&mut self, now: Instant) -> Option<ConnectionHandle> {
        let handle = self.changed.pop()?;
        if let Some(entry) = entry_of(&mut self.sessions, handle) {
            entry.is_changed = false;
        }
        self.session(handle)?.settle(now);
        Some(handle)
    }

    /// When something is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(due, _)| *due)
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((due, handle)) = self.timers.first().copied() {
            if due > now {
                return;
            }
            self.timers.pop_first();
            let Some(entry) = entry_of(&mut self.sessions, handle) else { continue };
            entry.timer = None;
            entry.session.handle_timeout(now);
            if !entry.is_changed {
                entry.is_changed = true;
                self.changed.push(handle);
            }
            // Its next timer is set when it has been asked for what it sends.
            self.session(handle);
        }
    }

    /// Sends what the sessions have to send, one burst of each in turn, until the socket takes no more or nothing is left.
    pub fn transmit(&mut self, now: Instant) {
        if let Some((transmit, content)) = self.unsent.take()
            && self.socket.try_send(&transmit, &content).is_err()
        {
            self.unsent = Some((transmit, content));
            return;
        }
        let mut turn = std::mem::take(&mut self.sending);
        while !turn.is_empty() {
            let mut again = Vec::new();
            for (nth, handle) in turn.iter().enumerate() {
                if self.transmit_one(*handle, now) {
                    again.push(*handle);
                }
                if self.is_blocked() {
                    again.extend_from_slice(&turn[nth + 1..]);
                    self.sending.append(&mut again);
                    return;
                }
            }
            turn = again;
        }
    }

    /// Whether the socket did not take what was to be sent.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.unsent.is_some()
    }

    /// Whether [`receive`](Self::receive), or [`transmit`](Self::transmit) of a blocked hub, may get on; the task is woken when it may.
    pub fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let is_writable = self.is_blocked() && self.socket.poll_writable(context).is_ready();
        if self.socket.poll_readable(context).is_ready() || is_writable { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Goes on over another socket: the machine's address has changed, or a session is to take another uplink (RFC 9000 §9).
    pub fn rebind(&mut self, socket: UdpSocket, now: Instant) {
        self.socket = socket;
        self.unsent = None;
        for index in 0..self.sessions.len() {
            if let Some(session) = self.session(ConnectionHandle(index)) {
                session.address_changed(now);
            }
        }
    }

    /// The number of sessions, those that are closed and not forgotten included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no session.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn add(&mut self, handle: ConnectionHandle, session: Session) {
        if self.sessions.len() <= handle.0 {
            self.sessions.resize_with(handle.0 + 1, || None);
        }
        let entry = Entry { session, timer: None, local: None, is_changed: true, is_sending: true };
        self.sessions[handle.0] = Some(Box::new(entry));
        self.count += 1;
        self.changed.push(handle);
        self.sending.push(handle);
    }

    /// Sends one burst of a session; whether there may be more.
    fn transmit_one(&mut self, handle: ConnectionHandle, now: Instant) -> bool {
        let Some(entry) = entry_of(&mut self.sessions, handle) else { return false };
        // The endpoint's answers make the session send again, so they come first.
        while let Some(event) = entry.session.poll_endpoint_event() {
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                entry.session.handle_event(event);
            }
        }
        self.buffer.clear();
        let burst = self.socket.burst(entry.session.datagram_size());
        let sent = entry.session.poll_transmit(now, burst, &mut self.buffer);
        if let Some(transmit) = sent {
            if self.socket.try_send(&transmit, &self.buffer[..transmit.size]).is_err() {
                self.unsent = Some((transmit, self.buffer.clone()));
            }
            return true;
        }
        entry.is_sending = false;
        self.rest(handle);
        false
    }

    /// After a session has nothing more to say: sets its timer, or forgets it.
    fn rest(&mut self, handle: ConnectionHandle) {
        let Some(entry) = entry_of(&mut self.sessions, handle) else { return };
        let due = if entry.session.is_drained() { None } else { entry.session.poll_timeout() };
        if due != entry.timer {
            if let Some(former) = entry.timer.take() {
                self.timers.remove(&(former, handle));
            }
            entry.timer = due;
            self.timers.extend(due.map(|due| (due, handle)));
        }
        if entry.session.has_events() && !entry.is_changed {
            entry.is_changed = true;
            self.changed.push(handle);
        }
        if entry.session.is_drained() && !entry.is_changed {
            self.sessions[handle.0] = None;
            self.count -= 1;
        }
    }

    /// Answers to strangers are sent at once, or not at all.
    fn answer(&self, transmit: &Transmit, content: &[u8]) {
        let _ = self.socket.try_send(transmit, &content[..transmit.size]);
    }
}

fn entry_of(sessions: &mut [Option<Box<Entry>>], handle: ConnectionHandle) -> Option<&mut Entry> {
    sessions.get_mut(handle.0)?.as_deref_mut()
}

impl Drop for Hub {
    /// Tells the peers, so that none of them goes on sending to nobody.
    fn drop(&mut self) {
        let now = Instant::now();
        for index in 0..self.sessions.len() {
            if let Some(session) = self.session(ConnectionHandle(index)) {
                session.close(Code::NO_ERROR, "", now);
            }
        }
        self.transmit(now);
    }
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub").field("sessions", &self.count).finish_non_exhaustive()
    }
}
