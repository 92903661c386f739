//! A worker: its share of the devices' connections, and their packets to and from the tunnel interface.
//!
//! There is one for each processor. The kernel gives each its share of what comes (see [`steering`](crate::steering)), and the packets of
//! a flow to the worker that has the other direction, so that most packets meet no other worker.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log::Level;
use m2m_tunnel::hub::{ConnectionHandle, Hub, Incoming};
use m2m_tunnel::packet::Header;
use m2m_tunnel::packet::icmp::{self, Cause, RateLimit};
use m2m_tunnel::session::{CloseReason, Event, PREFIX, SendError, Session as Tunnel};
use m2m_tunnel::tun::{self, TunQueue};
use tokio::sync::mpsc;

use crate::admission::{Decision, Handshake};
use crate::admit::{Admitted, Applicant, Refusal, admit};
use crate::gateway::{Gateway, NO_LIST};
use crate::metrics::ConnectionOutcome;
use crate::passage::{Passed, pass};
use crate::policy::Refusal as Refused;
use crate::session::{self, End, Session, Way};

/// A connection of a worker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Seat {
    hub: usize,
    handle: ConnectionHandle,
}

/// Where a worker is told things.
#[derive(Debug, Clone)]
pub(crate) struct WorkerHandle {
    number: usize,
    orders: mpsc::UnboundedSender<Order>,
}

impl WorkerHandle {
    /// The worker with this number, and where it hears.
    pub(crate) fn new(number: usize) -> (Self, mpsc::UnboundedReceiver<Order>) {
        let (orders, heard) = mpsc::unbounded_channel();
        (Self { number, orders }, heard)
    }

    /// Tells it. A worker that is gone took its connections with it.
    pub(crate) fn tell(&self, order: Order) {
        let _ = self.orders.send(order);
    }
}

/// Packets behind [`PREFIX`], each with the session that it is for.
pub(crate) type Addressed = Vec<(Arc<Session>, Bytes)>;

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Order {
    /// What became of a request.
    Verdict(Seat, Result<Admitted, Refusal>),
    /// Packets that another worker got for a session of this one.
    Packets(Addressed),
    /// Close a session.
    Close(Arc<Session>, End),
    /// Tell a device to go elsewhere.
    GoAway(Arc<Session>),
    /// Take no connections any more.
    CloseDoor,
    /// End when the connections are over.
    Stop,
}

/// Serves its share until it is told to stop, or until the interface or a socket is gone.
///
/// # Errors
/// The kernel's.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    handle: WorkerHandle,
    mut orders: mpsc::UnboundedReceiver<Order>,
    hubs: Vec<Hub>,
    queue: TunQueue,
) -> io::Result<()> {
    let now = Instant::now();
    let mut worker = Worker {
        gateway,
        handle,
        hubs,
        queue,
        members: HashMap::new(),
        packets: Packets::default(),
        replies: RateLimit::new(100, now),
        rests_until: None,
        is_stopping: false,
    };
    loop {
        while let Ok(order) = orders.try_recv() {
            worker.obey(order);
        }
        let is_busy = worker.turn()?;
        if worker.is_over() {
            return Ok(());
        }
        if is_busy {
            // Others want to run, too, and the sockets have to be looked at.
            tokio::task::yield_now().await;
            continue;
        }
        tokio::select! {
            () = worker.ready() => {}
            Some(order) = orders.recv() => worker.obey(order),
        }
    }
}

/// Bytes that one turn takes from the interface: two of the largest packets of the kernel.
const TURN: usize = 128 * 1024;
/// How long an interface that is down is left alone.
const REST: Duration = Duration::from_millis(100);

struct Worker {
    gateway: Arc<Gateway>,
    handle: WorkerHandle,
    hubs: Vec<Hub>,
    queue: TunQueue,
    members: HashMap<Seat, Member>,
    packets: Packets,
    replies: RateLimit,
    rests_until: Option<Instant>,
    is_stopping: bool,
}

/// Packets of one turn; kept for their memory.
#[derive(Default)]
struct Packets {
    /// For the interface.
    inbound: Vec<Bytes>,
    /// From the interface.
    outbound: Vec<Bytes>,
}

/// Who has a seat.
#[derive(Debug)]
enum Member {
    /// Nobody yet: the handshake goes on, or the decision.
    Stranger { _handshake: Handshake },
    /// A device.
    Device(Arc<Session>),
}

impl Worker {
    fn obey(&mut self, order: Order) {
        match order {
            Order::Verdict(seat, Ok(admitted)) => self.seat(seat, admitted),
            Order::Verdict(seat, Err(refusal)) => self.turn_away(seat, &refusal),
            Order::Packets(packets) => {
                let now = Instant::now();
                for (session, packet) in packets {
                    if let Some(seat) = self.seat_of(&session) {
                        self.send(&session, seat, packet, now);
                    }
                }
            }
            Order::Close(session, end) => {
                if let Some(tunnel) = self.tunnel_of(&session) {
                    tunnel.close(end.code(), end.reason(), Instant::now());
                }
            }
            Order::GoAway(session) => {
                if let Some(tunnel) = self.tunnel_of(&session) {
                    tunnel.go_away();
                }
            }
            Order::CloseDoor => self.hubs.iter_mut().for_each(Hub::close_door),
            Order::Stop => self.is_stopping = true,
        }
    }

    /// The session's seat, if it is still this worker's: handles are used again.
    fn seat_of(&self, session: &Arc<Session>) -> Option<Seat> {
        let Way::Worker(_, seat) = session.way else { return None };
        let is_own = matches!(self.members.get(&seat), Some(Member::Device(own)) if Arc::ptr_eq(own, session));
        is_own.then_some(seat)
    }

    fn tunnel_of(&mut self, session: &Arc<Session>) -> Option<&mut Tunnel> {
        let seat = self.seat_of(session)?;
        self.hubs[seat.hub].session(seat.handle)
    }

    fn is_over(&self) -> bool {
        self.is_stopping && self.hubs.iter().all(Hub::is_empty)
    }

    /// Does whatever can be done now; whether anything was.
    fn turn(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let mut is_busy = false;
        for hub in 0..self.hubs.len() {
            is_busy |= self.hubs[hub].receive(now)? > 0;
            self.hubs[hub].handle_timeout(now);
            while let Some(incoming) = self.hubs[hub].next_incoming() {
                self.knock(hub, incoming, now);
            }
            while let Some(handle) = self.hubs[hub].next_changed(now) {
                is_busy = true;
                self.look_after(Seat { hub, handle });
            }
        }
        self.deliver()?;
        is_busy |= self.collect(now)?;
        for hub in &mut self.hubs {
            hub.transmit(now);
        }
        Ok(is_busy)
    }

    /// The first packet of a connection.
    fn knock(&mut self, hub: usize, incoming: Incoming, now: Instant) {
        let gateway = Arc::clone(&self.gateway);
        let hubs = &mut self.hubs[hub];
        if !gateway.admits_devices() {
            gateway.note_stranger(Level::Warn, &incoming.remote_address(), &NO_LIST);
            gateway.metrics.connection(ConnectionOutcome::RefusedNoRevocationList);
            return hubs.refuse(incoming);
        }
        match gateway.admission.decide(incoming.remote_address().ip(), incoming.remote_address_validated()) {
            Decision::Retry => {
                gateway.metrics.connection(ConnectionOutcome::Retry);
                hubs.retry(incoming);
            }
            Decision::Refuse => {
                gateway.metrics.connection(ConnectionOutcome::RefusedBusy);
                hubs.refuse(incoming);
            }
            Decision::Accept(handshake) => match hubs.accept(incoming, now) {
                Some(handle) => {
                    drop(self.members.insert(Seat { hub, handle }, Member::Stranger { _handshake: handshake }))
                }
                None => gateway.metrics.connection(ConnectionOutcome::HandshakeFailed),
            },
        }
    }

    fn look_after(&mut self, seat: Seat) {
        loop {
            let Some(tunnel) = self.hubs[seat.hub].session(seat.handle) else { return };
            if let Some(Member::Device(session)) = self.members.get(&seat) {
                while let Some(packet) = tunnel.recv() {
                    take(&self.gateway, session, tunnel, packet, &mut self.packets.inbound);
                }
            }
            let Some(event) = tunnel.poll_event() else { return };
            self.happened(seat, event);
        }
    }

    fn happened(&mut self, seat: Seat, event: Event) {
        let Some(tunnel) = self.hubs[seat.hub].session(seat.handle) else { return };
        match event {
            Event::Requested(_, scope) => {
                let applicant = Applicant { chain: tunnel.peer_certificates(), remote: tunnel.remote(), scope };
                let (gateway, worker) = (Arc::clone(&self.gateway), self.handle.clone());
                tokio::spawn(async move {
                    let verdict = admit(&gateway, applicant).await;
                    worker.tell(Order::Verdict(seat, verdict));
                });
            }
            Event::Packet(packet) => {
                if let Some(Member::Device(session)) = self.members.get(&seat) {
                    take(&self.gateway, session, tunnel, packet, &mut self.packets.inbound);
                }
            }
            Event::AddressesRequested(requests) => {
                if let Some(Member::Device(session)) = self.members.get(&seat) {
                    let now = Instant::now();
                    if !session.may_ask(now) {
                        return tunnel.close(End::Insistent.code(), End::Insistent.reason(), now);
                    }
                    tunnel.assign_addresses(session::answers(&session.addresses, &requests));
                    if session::claims(&session.addresses, &requests) {
                        self.gateway.make_current(session);
                    }
                }
            }
            Event::PacketSize(size) => {
                let remote = tunnel.remote();
                if let Some(Member::Device(session)) = self.members.get(&seat) {
                    session.update(remote, size);
                }
            }
            Event::Closed(reason) => self.closed(seat, &reason),
            // A device neither assigns addresses to the gateway nor routes for it.
            _ => {}
        }
    }

    /// A device gets its tunnel.
    fn seat(&mut self, seat: Seat, admitted: Admitted) {
        let now = Instant::now();
        let Some(Member::Stranger { .. }) = self.members.get(&seat) else { return };
        let Some(tunnel) = self.hubs[seat.hub].session(seat.handle) else { return };
        let way = Way::Worker(self.handle.clone(), seat);
        let session = Arc::new(Session::new(admitted, way, tunnel.remote()));
        tunnel.accept();
        tunnel.assign_addresses(session::assignments(&session.addresses));
        tunnel.advertise_routes(session.routes(&self.gateway.policy));
        session.update(tunnel.remote(), tunnel.max_packet_size());
        if let Err(full) = self.gateway.join(&session) {
            tunnel.close(m2m_tunnel::http3::Code::EXCESSIVE_LOAD, &full.to_string(), now);
            self.gateway.metrics.connection(ConnectionOutcome::NoRoom);
            return;
        }
        self.gateway.metrics.connection(ConnectionOutcome::Accepted);
        self.members.insert(seat, Member::Device(Arc::clone(&session)));
        // A list that came between the look before and joining did not see this session.
        if self.gateway.is_revoked(&session.certificate) {
            session.close(End::Revoked);
        }
        self.look_after(seat);
    }

    fn turn_away(&mut self, seat: Seat, refusal: &Refusal) {
        let Some(Member::Stranger { .. }) = self.members.get(&seat) else { return };
        let Some(tunnel) = self.hubs[seat.hub].session(seat.handle) else { return };
        let who = refusal.device.clone().unwrap_or_else(|| tunnel.remote().to_string());
        log::info!("{who}: refused: {}", refusal.answer);
        tunnel.reject(&refusal.answer, Instant::now());
        self.gateway.metrics.connection(refusal.outcome);
    }

    fn closed(&mut self, seat: Seat, reason: &CloseReason) {
        match self.members.remove(&seat) {
            Some(Member::Device(session)) => {
                self.gateway.ended(&session, reason);
            }
            Some(Member::Stranger { .. }) => {
                let outcome = match reason {
                    CloseReason::TimedOut => ConnectionOutcome::TimedOut,
                    // Turned away, and counted then.
                    CloseReason::Local => return,
                    CloseReason::Protocol { .. } | CloseReason::Ended | CloseReason::Peer { .. } => {
                        ConnectionOutcome::BadRequest
                    }
                    _ => ConnectionOutcome::HandshakeFailed,
                };
                self.gateway.note_stranger(Level::Info, &"no tunnel", reason);
                self.gateway.metrics.connection(outcome);
            }
            None => {}
        }
    }

    /// Packets of devices, to the kernel, which forwards them and counts down their hop limit as every router does.
    fn deliver(&mut self) -> io::Result<()> {
        if self.packets.inbound.is_empty() {
            return Ok(());
        }
        match self.queue.try_write_batch(self.packets.inbound.drain(..)) {
            Ok(report) => self.gateway.metrics.not_taken(report.dropped),
            Err(error) if tun::is_gone(&error) => return Err(error),
            Err(error) => log::debug!("the tunnel interface took no packets: {error}"),
        }
        Ok(())
    }

    /// Packets from the company's network, to the sessions; whether there were any.
    fn collect(&mut self, now: Instant) -> io::Result<bool> {
        if self.rests_until.is_some_and(|until| now < until) {
            return Ok(false);
        }
        self.rests_until = None;
        let gateway = Arc::clone(&self.gateway);
        // What the kernel says to the link itself (router solicitations, multicast listener reports) is for nobody.
        let for_devices = |header: &Header| gateway.is_for_a_device(header.destination);
        match self.queue.try_read_batch(&PREFIX, TURN, &mut self.packets.outbound, for_devices) {
            Ok(report) if report.calls == 0 => return Ok(false),
            Ok(_) => {}
            Err(error) if tun::is_gone(&error) => return Err(error),
            Err(error) => {
                log::warn!("the tunnel interface gave no packets: {error}");
                self.rests_until = Some(now + REST);
                return Ok(false);
            }
        }
        let mut elsewhere: HashMap<usize, (WorkerHandle, Addressed)> = HashMap::new();
        let mut last: Option<(IpAddr, Arc<Session>)> = None;
        for packet in std::mem::take(&mut self.packets.outbound) {
            let Some(Header { source, destination, .. }) = Header::parse(&packet[PREFIX.len()..]) else { continue };
            let session = match &last {
                Some((address, session)) if *address == destination => Some(Arc::clone(session)),
                _ => gateway.table().session_of(destination).map(Arc::clone),
            };
            let Some(session) = session else {
                gateway.metrics.undeliverable.inc();
                if self.replies.take(now) {
                    self.answer(&packet[PREFIX.len()..], Cause::NoRoute, destination);
                }
                continue;
            };
            last = Some((destination, Arc::clone(&session)));
            if let Some(confinement) = &session.confinement
                && !confinement.lets_in(source, &packet[PREFIX.len()..])
            {
                session.counters.refused(Refused::OutOfScope);
                if session.may_reply(now) {
                    self.answer(&packet[PREFIX.len()..], Cause::Prohibited, destination);
                }
                continue;
            }
            match &session.way {
                Way::Worker(worker, seat) if worker.number == self.handle.number => {
                    self.send(&session, *seat, packet, now);
                }
                Way::Worker(worker, _) => {
                    let (_, packets) = elsewhere.entry(worker.number).or_insert_with(|| (worker.clone(), Vec::new()));
                    packets.push((Arc::clone(&session), packet));
                }
                Way::Stream(lane) => {
                    session.counters.sent(packet.len() - PREFIX.len());
                    lane.send(packet.slice(PREFIX.len()..), now);
                }
            }
        }
        for (worker, packets) in elsewhere.into_values() {
            worker.tell(Order::Packets(packets));
        }
        // Answers to the senders.
        self.deliver()?;
        Ok(true)
    }

    fn send(&mut self, session: &Arc<Session>, seat: Seat, packet: Bytes, now: Instant) {
        let length = packet.len() - PREFIX.len();
        match self.hubs[seat.hub].send(seat.handle, packet.clone(), now) {
            Ok(()) => session.counters.sent(length),
            Err(SendError::TooLarge { max }) => {
                session.counters.too_large();
                let packet = &packet[PREFIX.len()..];
                let Some(header) = Header::parse(packet) else { return };
                if session.may_reply(now) {
                    self.answer(packet, Cause::TooLarge { mtu: max }, header.destination);
                }
            }
            // It is about to be taken out of the table.
            Err(SendError::NotOpen) => {}
        }
    }

    /// The answer comes from the address that the packet was for: the kernel takes a packet from one of its own addresses,
    /// coming from outside, for a forgery.
    fn answer(&mut self, packet: &[u8], cause: Cause, from: IpAddr) {
        self.packets.inbound.extend(icmp::error(packet, cause, from).map(Bytes::from));
    }

    /// Waits until [`turn`](Self::turn) may have something to do. Cancel safe.
    async fn ready(&self) {
        let due = self.hubs.iter().filter_map(Hub::poll_timeout).chain(self.rests_until).min();
        let may_read = self.rests_until.is_none();
        let hubs = poll_fn(|context| {
            // All of them, so that each wakes this task.
            let ready = self.hubs.iter().filter(|hub| hub.poll_ready(context).is_ready()).count();
            if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            _ = self.queue.readable(), if may_read => {}
            () = hubs => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
    }
}

/// Takes a packet of a device.
fn take(gateway: &Gateway, session: &Arc<Session>, tunnel: &mut Tunnel, packet: Bytes, passing: &mut Vec<Bytes>) {
    let now = Instant::now();
    match pass(gateway, session, packet, now) {
        Passed::On(packet) => passing.push(packet),
        // As any packet, the answer may be lost.
        Passed::Answered(answer) => drop(tunnel.send([&PREFIX, &answer[..]].concat().into(), now)),
        Passed::Dropped => {}
    }
}
