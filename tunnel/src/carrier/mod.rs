//! The device's loop: packets between its interface and the links that carry its tunnel.
//!
//! A tunnel may have several links at once: the one that carries it, one that is about to take over, one that still delivers what
//! was sent over it. Packets of the machine go over the active one, packets from the gateway are taken from all. One task does it all,
//! so that a packet meets no lock and no queue but the one that is meant to hold it.

mod link;
mod policy;

use std::{
    collections::BTreeMap,
    future::poll_fn,
    io,
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::mpsc;

pub use link::{LinkId, Way};
pub use policy::{Counters, Policy};

use crate::{
    capsule::RequestedAddress,
    http3::Code,
    packet::{
        Header, IPV6_MIN_MTU,
        icmp::{self, RateLimit},
    },
    queue::Queue,
    session::{Event, PREFIX, SendError},
    tun::{TunQueue, is_gone},
    udp::UdpSocket,
};
use link::Link;
use policy::add;

/// What the carrier is told.
#[derive(Debug)]
pub enum Command {
    /// Carry on with a link whose tunnel is open.
    Add(LinkId, Box<Way>),
    /// The machine's packets go over this link from now on.
    Activate(LinkId),
    /// Close a link.
    Remove(LinkId, Code, &'static str),
    /// What may pass.
    Policy(Policy),
    /// A link goes on over another socket.
    Rebind(LinkId, Box<UdpSocket>),
    /// How often a link is kept alive.
    Keepalive(LinkId, Option<Duration>),
    /// See whether the gateway answers.
    Ping(LinkId),
    /// Ask the gateway for addresses.
    RequestAddresses(LinkId, Vec<RequestedAddress>),
}

/// What the carrier tells.
#[derive(Debug)]
pub enum Notice {
    /// Something happened on a link.
    Link(LinkId, Event),
    /// There is a packet and no link: it waits for one.
    Wanted,
}

/// Why no packets move any more.
#[derive(Debug, thiserror::Error)]
pub enum End {
    /// Whoever gave the commands is gone.
    #[error("told to stop")]
    Stopped,
    /// The interface is gone.
    #[error("tunnel interface: {0}")]
    Interface(#[source] io::Error),
}

/// Moves packets until the commands end, or the interface.
pub async fn run(
    queue: TunQueue,
    mut commands: mpsc::UnboundedReceiver<Command>,
    notices: mpsc::UnboundedSender<Notice>,
    counters: Arc<Counters>,
) -> End {
    let mut carrier = Carrier::new(queue, notices, counters);
    loop {
        let turn = loop {
            match commands.try_recv() {
                Ok(command) => carrier.obey(command),
                Err(mpsc::error::TryRecvError::Empty) => break carrier.turn(),
                Err(mpsc::error::TryRecvError::Disconnected) => return carrier.farewell(),
            }
        };
        match turn {
            // Others want to run, too, and the sockets have to be looked at.
            Ok(true) => tokio::task::yield_now().await,
            Ok(false) => {
                let command = tokio::select! {
                    () = carrier.ready() => continue,
                    command = commands.recv() => command,
                };
                let Some(command) = command else { return carrier.farewell() };
                carrier.obey(command);
            }
            Err(error) => return End::Interface(error),
        }
    }
}

/// Bytes that one turn takes from the interface: two of the largest packets of the kernel.
const TURN: usize = 128 * 1024;

/// Bytes of packets that wait while there is no link.
const WAITING: usize = 256 * 1024;

/// How long a packet waits for a link at most: whoever sent it has sent it again by then.
const WAITS: Duration = Duration::from_secs(10);

/// How long an interface that is down is left alone.
const REST: Duration = Duration::from_millis(100);

const ICMP_PER_SECOND: u32 = 100;

struct Carrier {
    queue: TunQueue,
    links: BTreeMap<LinkId, Link>,
    active: Option<LinkId>,
    policy: Policy,
    counters: Arc<Counters>,
    notices: mpsc::UnboundedSender<Notice>,
    waiting: Queue,
    waiting_since: Option<Instant>,
    limit: RateLimit,
    outbound: Vec<Bytes>,
    inbound: Vec<Bytes>,
    /// While the interface is down nothing is read before this.
    rests_until: Option<Instant>,
    /// Whether it was said that IPv6 does not fit the path.
    is_narrow: bool,
}

impl Carrier {
    fn new(queue: TunQueue, notices: mpsc::UnboundedSender<Notice>, counters: Arc<Counters>) -> Self {
        Self {
            queue,
            links: BTreeMap::new(),
            active: None,
            policy: Policy::default(),
            counters,
            notices,
            waiting: Queue::new(WAITING, PREFIX.len()),
            waiting_since: None,
            limit: RateLimit::new(ICMP_PER_SECOND, Instant::now()),
            outbound: Vec::new(),
            inbound: Vec::new(),
            rests_until: None,
            is_narrow: false,
        }
    }

    fn obey(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Add(id, way) => {
                self.links.insert(id, Link::new(*way));
            }
            Command::Activate(id) => self.activate(id, now),
            Command::Remove(id, code, reason) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.close(code, reason, now);
                }
                if self.active == Some(id) {
                    self.active = None;
                }
            }
            Command::Policy(policy) => self.policy = policy,
            Command::Rebind(id, socket) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.rebind(*socket, now);
                }
            }
            Command::Keepalive(id, interval) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.set_keepalive(interval);
                }
            }
            Command::Ping(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.ping();
                }
            }
            Command::RequestAddresses(id, addresses) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.request_addresses(addresses);
                }
            }
        }
    }

    fn activate(&mut self, id: LinkId, now: Instant) {
        if self.active == Some(id) || !self.links.contains_key(&id) {
            return;
        }
        let former = self.active.replace(id).and_then(|former| self.links.get_mut(&former));
        // What the former link has not sent yet goes over the new one.
        let mut left = former.map(Link::take_waiting).unwrap_or_default();
        while let Some(packet) = self.waiting.pop(now) {
            left.push(packet);
        }
        self.waiting_since = None;
        self.outbound.append(&mut left);
        self.send(now);
    }

    /// Does whatever can be done now; whether anything was.
    fn turn(&mut self) -> io::Result<bool> {
        let now = Instant::now();
        let mut is_busy = false;
        for (id, link) in &mut self.links {
            is_busy |= link.receive(now, &mut self.inbound);
            while let Some(event) = link.next_event() {
                match event {
                    Event::Packet(packet) => self.inbound.push(packet),
                    // Nobody listens when the carrier is about to end.
                    event => drop(self.notices.send(Notice::Link(*id, event))),
                }
            }
        }
        self.links.retain(|_, link| !link.is_over());
        self.deliver()?;
        is_busy |= self.collect(now)?;
        for link in self.links.values_mut() {
            link.transmit(now);
        }
        Ok(is_busy)
    }

    /// Packets from the gateway, to the machine.
    fn deliver(&mut self) -> io::Result<()> {
        if self.inbound.is_empty() {
            return Ok(());
        }
        let Self { inbound, policy, counters, queue, .. } = self;
        let (mut packets, mut bytes) = (0, 0);
        let passing = inbound.drain(..).filter(|packet| {
            let Some(header) = Header::parse(packet) else {
                add(&counters.malformed, 1);
                return false;
            };
            if !policy.addresses.contains(header.destination) {
                add(&counters.foreign_destination, 1);
                return false;
            }
            packets += 1;
            bytes += packet.len();
            true
        });
        let report = queue.try_write_batch(passing);
        add(&counters.rx_packets, packets);
        add(&counters.rx_bytes, bytes);
        self.written(report)
    }

    fn written(&self, report: io::Result<crate::tun::WriteReport>) -> io::Result<()> {
        match report {
            Ok(report) => add(&self.counters.interface, report.dropped),
            Err(error) if is_gone(&error) => return Err(error),
            Err(_) => add(&self.counters.interface, 1),
        }
        Ok(())
    }

    /// Packets of the machine, to the gateway; whether there were any.
    fn collect(&mut self, now: Instant) -> io::Result<bool> {
        if self.rests_until.is_some_and(|until| now < until) {
            return Ok(false);
        }
        self.rests_until = None;
        let Self { queue, outbound, policy, counters, .. } = self;
        let read = queue.try_read_batch(&PREFIX, TURN, outbound, |header| {
            let passes = policy.addresses.contains(header.source);
            if !passes {
                add(&counters.foreign_source, 1);
            }
            passes
        });
        match read {
            Err(error) if is_gone(&error) => return Err(error),
            // It is down.
            Err(_) => {
                self.rests_until = Some(now + REST);
                return Ok(false);
            }
            Ok(report) if report.calls == 0 => return Ok(false),
            Ok(_) => {}
        }
        self.send(now);
        self.answer()?;
        Ok(true)
    }

    fn send(&mut self, now: Instant) {
        let Some(link) = self.active.and_then(|id| self.links.get_mut(&id)) else {
            return self.keep(now);
        };
        let (mut packets, mut bytes) = (0, 0);
        for packet in self.outbound.drain(..) {
            let length = packet.len() - PREFIX.len();
            match link.send(packet.clone(), now) {
                Ok(()) => {
                    packets += 1;
                    bytes += length;
                }
                Err(SendError::TooLarge { max }) => {
                    add(&self.counters.too_large, 1);
                    let packet = &packet[PREFIX.len()..];
                    let Some(header) = Header::parse(packet) else { continue };
                    if header.source.is_ipv6() && max < IPV6_MIN_MTU && !self.is_narrow {
                        self.is_narrow = true;
                        log::warn!("the path carries packets of {max} bytes only, IPv6 needs {IPV6_MIN_MTU}");
                    }
                    // The kernel would take a packet from an address of its own for a forgery.
                    let answer = icmp::error(packet, icmp::Cause::TooLarge { mtu: max }, header.destination);
                    self.inbound.extend(answer.filter(|_| self.limit.take(now)).map(Bytes::from));
                }
                Err(SendError::NotOpen) => {}
            }
        }
        add(&self.counters.tx_packets, packets);
        add(&self.counters.tx_bytes, bytes);
    }

    /// Without a link packets wait for one.
    fn keep(&mut self, now: Instant) {
        if self.waiting_since.is_some_and(|since| since + WAITS < now) {
            self.waiting = Queue::new(WAITING, PREFIX.len());
        }
        for packet in self.outbound.drain(..) {
            self.waiting.push(packet, now);
        }
        self.waiting_since = Some(now);
        // Nobody listens when the carrier is about to end.
        let _ = self.notices.send(Notice::Wanted);
    }

    /// What was refused is answered at once.
    fn answer(&mut self) -> io::Result<()> {
        if self.inbound.is_empty() {
            return Ok(());
        }
        let report = self.queue.try_write_batch(self.inbound.drain(..));
        self.written(report)
    }

    /// Waits until [`turn`](Self::turn) may have something to do. Cancel safe.
    async fn ready(&mut self) {
        let due = self.links.values().filter_map(Link::poll_timeout).chain(self.rests_until).min();
        let may_read = self.rests_until.is_none();
        let links = poll_fn(|context| {
            // All of them, so that each wakes this task.
            let ready = self.links.values_mut().map(|link| link.poll_ready(context)).filter(Poll::is_ready).count();
            if ready > 0 { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::select! {
            _ = self.queue.readable(), if may_read => {}
            () = links => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
        }
    }

    /// Tells the gateway that nothing more comes.
    fn farewell(&mut self) -> End {
        let now = Instant::now();
        for link in self.links.values_mut() {
            link.close(Code::NO_ERROR, "the device closes the tunnel", now);
            link.transmit(now);
        }
        End::Stopped
    }
}
