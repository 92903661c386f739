//! One attempt at a tunnel: its links are opened, carried and closed as [`Roaming`] says, until the attempt is stopped or there is no
//! use in going on.

mod carrier;
mod links;
mod open;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use m2m_protocol::device_config::{Families, Mode};
use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::capsule::RequestedAddress;
use m2m_tunnel::carrier::{Command as Order, Notice, Policy};
use m2m_tunnel::http3::Code;
use m2m_tunnel::session::{CloseReason, Event as LinkEvent};
use m2m_tunnel::tun::Tun;
use m2m_tunnel::udp::UdpSocket;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use super::device::{Device, Member, SMALLEST_MTU};
use super::tasks::{Stop, send};
use crate::network::uplinks::Uplinks;
use crate::network::{Network, Tunnel, socket};
use crate::peer;
use crate::roaming::{self, Command, LinkId, Loss, Memory, Report, Roaming, Uplink, UplinkId};
use crate::state::{Attempt, ConnectFailure, Event};

use carrier::Carrier;
use links::{Applied, Line, Lines};
use open::Opened;

/// The largest packet of most machines' applications.
const LARGEST_MTU: usize = 1500;
/// How often it is looked whether the tunnel is used, where it closes when it is not.
const LOOK: Duration = Duration::from_secs(1);

/// Gets a tunnel and keeps it until it is stopped, and tells of it.
pub(super) async fn run(device: &Arc<Device>, attempt: Attempt, events: &mpsc::Sender<Event>, mut stop: Stop) {
    let mut supervisor = match Supervisor::start(device, attempt, events).await {
        Ok(supervisor) => supervisor,
        Err(failure) => return send(events, Event::TunnelFailed { attempt, failure }).await,
    };
    let failure = tokio::select! {
        () = stop.requested() => None,
        failure = supervisor.work() => Some(failure),
    };
    supervisor.end().await;
    if let Some(failure) = failure {
        send(events, Event::TunnelFailed { attempt, failure }).await;
    }
}

/// Whoever looks after the links of a tunnel.
struct Supervisor {
    device: Arc<Device>,
    member: Arc<Member>,
    network: Arc<Network>,
    tun: Arc<Tun>,
    carrier: Carrier,
    roaming: Roaming,
    /// What roaming said and nobody has done yet.
    commands: Vec<Command>,
    lines: Lines,
    openings: JoinSet<(LinkId, Result<Opened, ConnectFailure>)>,
    gateways: Vec<HttpsOrigin>,
    uplinks: watch::Receiver<Uplinks>,
    /// The names of the uplinks.
    known: Vec<Uplink>,
    active: Option<LinkId>,
    applied: Option<Applied>,
    attempt: Attempt,
    events: mpsc::Sender<Event>,
    saved: Memory,
}

impl Supervisor {
    async fn start(
        device: &Arc<Device>,
        attempt: Attempt,
        events: &mpsc::Sender<Event>,
    ) -> Result<Self, ConnectFailure> {
        let local = |error: &dyn std::fmt::Display| ConnectFailure::Local(error.to_string());
        let Some(member) = device.member() else {
            return Err(ConnectFailure::Identity("there is no key and certificate".to_owned()));
        };
        let network = device.network().await.map_err(|error| local(&error))?;
        let tun = device.interface().map_err(|error| local(&error))?;
        let carrier =
            Carrier::start(&tun, device.board.counters()).ok_or_else(|| local(&"the interface has no queue"))?;
        let uplinks = network.uplinks();
        let known = Uplink::list(&uplinks.borrow(), &member.tunnel.uplinks);
        let mut gateways: Vec<_> = member.tunnel.gateways.iter().collect();
        gateways.sort_by_key(|gateway| gateway.priority);
        let saved = device.store.networks();
        let config = roaming::Config::new(&member.tunnel, known.clone(), saved.clone());
        let now = Instant::now();
        let (mut roaming, mut commands) = Roaming::new(config, rand::random(), now);
        // Addresses and routes have to be known before the machine can have a packet for the tunnel.
        commands.extend(roaming.handle(roaming::Event::Traffic, now));
        Ok(Self {
            gateways: gateways.into_iter().map(|gateway| gateway.origin.clone()).collect(),
            device: Arc::clone(device),
            member,
            network,
            tun,
            carrier,
            roaming,
            commands,
            lines: Lines::default(),
            openings: JoinSet::new(),
            uplinks,
            known,
            active: None,
            applied: None,
            attempt,
            events: events.clone(),
            saved,
        })
    }

    /// Works until there is no use in going on.
    async fn work(&mut self) -> ConnectFailure {
        let is_on_demand = self.member.tunnel.mode == Mode::OnDemand;
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut used, mut used_at) = (0, Instant::now());
        loop {
            if let Err(failure) = self.obey().await {
                return failure;
            }
            let due = self.roaming.poll_timeout();
            let event = tokio::select! {
                Some(opened) = self.openings.join_next() => match opened {
                    Ok((link, opened)) => match self.opened(link, opened) {
                        Some(event) => event,
                        None => continue,
                    },
                    // One that was given up.
                    Err(_) => continue,
                },
                notice = self.carrier.notices.recv() => match notice {
                    Some(Notice::Link(link, event)) => match self.heard(link.0, event).await {
                        Ok(Some(event)) => event,
                        Ok(None) => continue,
                        Err(failure) => return failure,
                    },
                    Some(Notice::Wanted) => roaming::Event::Traffic,
                    None => return ConnectFailure::Local(self.carrier.end().await),
                },
                Ok(()) = self.uplinks.changed() => self.uplinks_changed(),
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.commands = self.roaming.handle_timeout(Instant::now());
                    continue;
                }
                _ = look.tick(), if is_on_demand => {
                    let counters = self.device.board.counters();
                    let packets = counters.packets();
                    if packets != used {
                        (used, used_at) = (packets, Instant::now());
                    }
                    if used_at.elapsed() < Duration::from_secs(self.member.tunnel.idle_s.into()) {
                        continue;
                    }
                    roaming::Event::Idle
                }
            };
            self.commands = self.roaming.handle(event, Instant::now());
        }
    }

    /// Closes everything.
    async fn end(mut self) {
        self.openings.abort_all();
        self.save();
        self.carrier.stop().await;
    }

    async fn obey(&mut self) -> Result<(), ConnectFailure> {
        for command in std::mem::take(&mut self.commands) {
            match command {
                Command::Open { link, uplink, gateway, transport } => self.open(link, uplink, gateway, transport),
                Command::Activate { link } => self.activate(link).await?,
                Command::Close { link, reason } => self.close(link, reason),
                Command::Rebind { link, uplink } => self.rebind(link, uplink),
                Command::Probe { link } => self.carrier.tell(Order::Ping(Lines::key(link))),
                Command::SetKeepalive { link, interval } => {
                    self.carrier.tell(Order::Keepalive(Lines::key(link), Some(interval)));
                }
                Command::Report(report) => self.report(report).await?,
            }
        }
        Ok(())
    }

    fn open(&mut self, link: LinkId, uplink: UplinkId, gateway: usize, transport: roaming::Transport) {
        let Some(origin) = self.gateways.get(gateway).cloned() else { return };
        let name = self.name_of(uplink);
        log::debug!("{link:?}: {origin} by {transport} over {}", name.as_deref().unwrap_or("any uplink"));
        let opened = open::open(
            Arc::clone(&self.device),
            Arc::clone(&self.member),
            Arc::clone(&self.network),
            origin,
            transport,
            name,
        );
        let handle = self.openings.spawn(async move { (link, opened.await) });
        self.lines.add(link, Line::new(gateway, transport, handle));
    }

    /// A link that is open is up when its gateway has assigned addresses.
    fn opened(&mut self, link: LinkId, opened: Result<Opened, ConnectFailure>) -> Option<roaming::Event> {
        let opened = match opened {
            Ok(opened) => opened,
            Err(failure) => return Some(roaming::Event::LinkFailed { link, failure }),
        };
        // Without a line it was given up in the meantime.
        let line = self.lines.get_mut(link)?;
        line.remote = Some(opened.remote);
        line.packet_size = opened.packet_size;
        line.opening = Some(opened.opening);
        self.carrier.tell(Order::Add(Lines::key(link), Box::new(opened.way)));
        line.local = opened.local;
        self.request_addresses(link, unspecified(self.member.tunnel.families));
        None
    }

    /// What a link's news mean.
    async fn heard(&mut self, key: u64, event: LinkEvent) -> Result<Option<roaming::Event>, ConnectFailure> {
        let Some((link, line)) = self.lines.by_key(key) else { return Ok(None) };
        let families = self.member.tunnel.families;
        match event {
            LinkEvent::AddressesAssigned(assigned) => {
                let wanted = |net: &IpNet| if net.addr().is_ipv4() { families.ipv4 } else { families.ipv6 };
                let granted = assigned.iter().filter(|one| !one.is_refusal()).map(|one| one.prefix);
                line.addresses = Some(granted.filter(wanted).collect());
            }
            LinkEvent::RoutesAdvertised(ranges) => line.routes = Some(ranges),
            LinkEvent::PacketSize(size) => line.packet_size = size,
            LinkEvent::Silent(_) => return Ok(Some(roaming::Event::LinkSilent { link })),
            LinkEvent::Answers => return Ok(Some(roaming::Event::LinkAnswers { link })),
            LinkEvent::BindingKept(silence) => return Ok(Some(roaming::Event::KeepaliveAnswered { link, silence })),
            LinkEvent::BindingLost(silence) => return Ok(Some(roaming::Event::BindingLost { link, silence })),
            LinkEvent::GoAway => return Ok(Some(roaming::Event::GoAway { link })),
            LinkEvent::Closed(reason) => return Ok(Some(self.closed(link, &reason))),
            // The gateway has no use for an address from a device.
            _ => return Ok(None),
        }
        if line.is_up {
            if self.active == Some(link) {
                self.apply(link).await?;
            }
            return Ok(None);
        }
        let Some(addresses) = line.addresses.as_ref().filter(|_| line.routes.is_some()) else { return Ok(None) };
        if addresses.is_empty() {
            let failure = ConnectFailure::Refused("the gateway has no address for this device".to_owned());
            return Ok(Some(roaming::Event::LinkFailed { link, failure }));
        }
        line.is_up = true;
        Ok(Some(roaming::Event::LinkUp { link, local: line.local }))
    }

    /// What the end of a link means. A gateway that checks certificates after the handshake closes the connection where a tunnel had
    /// begun already.
    fn closed(&mut self, link: LinkId, reason: &CloseReason) -> roaming::Event {
        let was_up = self.lines.get_mut(link).is_some_and(|line| line.is_up);
        self.lines.remove(link);
        let distrust = peer::of_tunnel(reason, &self.device.clock);
        if !was_up {
            let failure = distrust.map_or_else(|| ConnectFailure::Unreachable(reason.to_string()), open::failure);
            return roaming::Event::LinkFailed { link, failure };
        }
        let loss = match reason {
            CloseReason::Peer { .. } | CloseReason::Ended | CloseReason::TlsAlert { .. } => {
                Loss::ByGateway(reason.to_string())
            }
            _ => Loss::ByPath(reason.to_string()),
        };
        roaming::Event::LinkLost { link, loss }
    }

    fn uplinks_changed(&mut self) -> roaming::Event {
        self.known = Uplink::list(&self.uplinks.borrow_and_update(), &self.member.tunnel.uplinks);
        roaming::Event::UplinksChanged(self.known.clone())
    }

    async fn activate(&mut self, link: LinkId) -> Result<(), ConnectFailure> {
        if self.active.is_some() {
            // What is under way must not wait for the kernel.
            self.switch(link);
            self.active = Some(link);
            return self.apply(link).await;
        }
        self.active = Some(link);
        self.apply(link).await?;
        // The gateway may still have a link of a daemon that died.
        self.switch(link);
        Ok(())
    }

    /// The machine's packets go over this link, and the gateway is told: it takes a request for the addresses that the device has as the
    /// word that it is here.
    fn switch(&mut self, link: LinkId) {
        self.carrier.tell(Order::Activate(Lines::key(link)));
        let own = self.lines.get_mut(link).and_then(|line| line.addresses.clone()).unwrap_or_default();
        self.request_addresses(link, own);
    }

    /// Asks for these addresses. The ids of the requests follow those of former ones: none is used twice.
    fn request_addresses(&mut self, link: LinkId, wanted: Vec<IpNet>) {
        let Some(line) = self.lines.get_mut(link) else { return };
        let ids = line.requests + 1..;
        line.requests += wanted.len() as u64;
        let requests = wanted.into_iter().zip(ids).map(|(prefix, request_id)| RequestedAddress { request_id, prefix });
        self.carrier.tell(Order::RequestAddresses(Lines::key(link), requests.collect()));
    }

    /// Makes the machine's network what the link's gateway says, as far as it is not.
    async fn apply(&mut self, link: LinkId) -> Result<(), ConnectFailure> {
        let Some(line) = self.lines.get_mut(link) else { return Ok(()) };
        let (Some(addresses), Some(routes)) = (&line.addresses, &line.routes) else { return Ok(()) };
        let fits = u16::try_from(line.packet_size.min(LARGEST_MTU)).unwrap_or(SMALLEST_MTU).max(SMALLEST_MTU);
        let wanted = Applied { addresses: addresses.clone(), routes: routes.clone(), mtu: fits };
        if self.applied.as_ref() == Some(&wanted) {
            return Ok(());
        }
        let config = &self.member.tunnel;
        let tunnel = Tunnel {
            addresses: wanted.addresses.clone(),
            advertised: wanted.routes.clone(),
            wanted: config.routes.clone(),
            excluded: Vec::new(),
            dns: config.dns.clone(),
            mtu: wanted.mtu,
        };
        let applied = self.network.apply(self.tun.index(), &tunnel).await;
        let applied = applied.map_err(|error| ConnectFailure::Local(error.to_string()))?;
        self.carrier.tell(Order::Policy(Policy { addresses: wanted.addresses.iter().copied().collect() }));
        self.applied = Some(wanted);
        let news = format!("addresses {}; routes {}", list(&applied.addresses), list(&applied.routes));
        if self.device.board.set_tunnel(applied) {
            log::info!("{news}");
        }
        Ok(())
    }

    fn close(&mut self, link: LinkId, reason: roaming::CloseReason) {
        log::debug!("{link:?}: closed: {reason}");
        if self.active == Some(link) {
            self.active = None;
        }
        self.lines.remove(link);
        self.carrier.tell(Order::Remove(Lines::key(link), Code::NO_ERROR, "the device needs it no more"));
    }

    fn rebind(&mut self, link: LinkId, uplink: UplinkId) {
        let socket = socket::quic(self.name_of(uplink).as_deref()).and_then(UdpSocket::new);
        match socket {
            Ok(socket) => {
                self.carrier.tell(Order::Rebind(Lines::key(link), Box::new(socket)));
                let event = roaming::Event::LinkRebound { link, local: None };
                self.commands.extend(self.roaming.handle(event, Instant::now()));
            }
            Err(error) => log::debug!("{link:?}: no new socket: {error}"),
        }
    }

    async fn report(&mut self, report: Report) -> Result<(), ConnectFailure> {
        let attempt = self.attempt;
        let event = match report {
            Report::Up { link } => {
                let gateway = self.describe("tunnel up", link);
                Event::TunnelUp { attempt, gateway }
            }
            Report::Moved { to, .. } => {
                let gateway = self.describe("tunnel moved", to);
                Event::TunnelMoved { attempt, gateway }
            }
            Report::Stalled { stall, .. } => {
                log::info!("the tunnel is interrupted: {stall}");
                return Ok(());
            }
            Report::Resumed { .. } => {
                log::info!("the tunnel goes on");
                return Ok(());
            }
            Report::Down { reason } => {
                self.active = None;
                Event::TunnelDown { attempt, reason }
            }
            Report::Failed { gateway, failure: ConnectFailure::Unreachable(cause) } => {
                Event::TunnelTrouble { attempt, gateway, cause }
            }
            Report::Failed { gateway, failure } => return Err(self.about(gateway, failure)),
            Report::Asleep => {
                self.active = None;
                Event::TunnelAsleep { attempt }
            }
        };
        self.save();
        send(&self.events, event).await;
        Ok(())
    }

    /// Says in the log where the tunnel goes; the gateway.
    fn describe(&mut self, what: &str, link: LinkId) -> usize {
        let Some(line) = self.lines.get_mut(link) else { return 0 };
        let remote = line.remote.map(|remote| remote.to_string()).unwrap_or_default();
        log::info!("{what} through {remote} by {} ({})", line.transport, self.tun.name());
        line.gateway
    }

    fn about(&self, gateway: Option<usize>, failure: ConnectFailure) -> ConnectFailure {
        let Some(origin) = gateway.and_then(|gateway| self.gateways.get(gateway)) else { return failure };
        match failure {
            ConnectFailure::Untrusted(cause) => ConnectFailure::Untrusted(format!("{origin}: {cause}")),
            ConnectFailure::Refused(cause) => ConnectFailure::Refused(format!("{origin}: {cause}")),
            other => other,
        }
    }

    /// What was learned of networks outlives a restart.
    fn save(&mut self) {
        if *self.roaming.memory() == self.saved {
            return;
        }
        self.saved.clone_from(self.roaming.memory());
        if let Err(error) = self.device.store.put_networks(&self.saved) {
            log::warn!("what was learned of the networks is not kept: {error}");
        }
    }

    fn name_of(&self, uplink: UplinkId) -> Option<String> {
        let named = |known: &&Uplink| known.id == uplink && uplink != UplinkId::ANY;
        self.known.iter().find(named).map(|known| known.name.clone())
    }
}

/// Any address of each family that is wanted.
fn unspecified(families: Families) -> Vec<IpNet> {
    let any: [(bool, IpAddr); 2] =
        [(families.ipv4, Ipv4Addr::UNSPECIFIED.into()), (families.ipv6, Ipv6Addr::UNSPECIFIED.into())];
    any.into_iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, address)| IpNet::from(address)).collect()
}

fn list(addresses: &[IpNet]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
