//! A world around the machine: uplinks and gateways that work or do not, and connections that behave as such connections do.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::roaming::link::{Rank, Way};
use crate::roaming::{Event, LinkId, Loss, Transport, Uplink, UplinkId};
use crate::state::ConnectFailure;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// The driver's detection of a dead peer under traffic.
const DETECTION: Duration = Duration::from_millis(350);
/// When QUIC and TCP repeat what opens a connection.
const REPETITIONS: [Duration; 5] =
    [Duration::ZERO, SECOND, Duration::from_secs(3), Duration::from_secs(7), Duration::from_secs(15)];
const IDLE_TIMEOUT: Duration = Duration::from_secs(660);

#[derive(Debug)]
pub(super) struct World {
    pub(super) uplinks: Vec<SimUplink>,
    pub(super) gateways: Vec<SimGateway>,
    pub(super) links: BTreeMap<LinkId, SimLink>,
    pub(super) active: Option<LinkId>,
}

#[derive(Debug)]
pub(super) struct SimUplink {
    pub(super) is_present: bool,
    pub(super) udp: bool,
    pub(super) tcp: bool,
    pub(super) host: u8,
    pub(super) round_trip: Duration,
    /// When one of these changed.
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct SimGateway {
    pub(super) priority: u16,
    pub(super) state: GatewayState,
    /// Counts its starts: it forgets its links with each.
    pub(super) starts: u32,
    pub(super) since: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum GatewayState {
    Works,
    /// Takes no new links, and is gone after a while.
    Drains,
    Refuses,
    /// The program is gone: TCP is reset, UDP is not answered.
    Stopped,
    /// The machine is gone.
    Dark,
}

#[derive(Debug)]
pub(super) struct SimLink {
    pub(super) way: Way,
    state: SimState,
}

#[derive(Debug)]
enum SimState {
    Opening { since: Instant },
    Up { starts: u32, host: u8, health: Health, asked: Option<Instant>, is_told_silent: bool },
}

/// Since when it is so.
#[derive(Debug, Clone, Copy)]
enum Health {
    Well(Instant),
    Ill(Instant),
}

impl World {
    pub(super) fn new(priorities: &[u16], now: Instant) -> Self {
        let uplink = |round_trip: u32| SimUplink {
            is_present: true,
            udp: true,
            tcp: true,
            host: 7,
            round_trip: round_trip * MS,
            since: now,
        };
        let gateway =
            |priority: &u16| SimGateway { priority: *priority, state: GatewayState::Works, starts: 0, since: now };
        Self {
            uplinks: vec![uplink(10), uplink(40), uplink(150)],
            gateways: priorities.iter().map(gateway).collect(),
            links: BTreeMap::new(),
            active: None,
        }
    }

    /// What the machine is told of the uplinks: the last one is metered.
    pub(super) fn told(&self) -> Vec<Uplink> {
        let present = self.uplinks.iter().zip(0..).filter(|(uplink, _)| uplink.is_present);
        present.map(|(uplink, place)| describe(place, uplink.host)).collect()
    }

    /// The ways that work, and since when.
    pub(super) fn working_ways(&self) -> Vec<(Way, Instant)> {
        let mut ways = Vec::new();
        for uplink in 0..3 {
            for gateway in 0..self.gateways.len() {
                for transport in [Transport::Http3, Transport::Http2] {
                    let way = Way { uplink: UplinkId(uplink + 2), gateway, transport };
                    if self.passes(way) && self.gateways[gateway].state == GatewayState::Works {
                        ways.push((way, self.changed(way)));
                    }
                }
            }
        }
        ways
    }

    pub(super) fn rank(&self, way: Way) -> Rank {
        let place = way.uplink.0 - 2;
        Rank {
            uplink: describe(place, 0).rank(),
            gateway: self.gateways[way.gateway].priority,
            transport: way.transport,
        }
    }

    pub(super) fn is_up(&self, link: LinkId) -> bool {
        matches!(self.links.get(&link), Some(SimLink { state: SimState::Up { .. }, .. }))
    }

    /// The active link's way, if packets pass over it.
    pub(super) fn active_and_well(&self) -> Option<Way> {
        let link = self.links.get(&self.active?)?;
        let SimState::Up { health: Health::Well(_), .. } = link.state else { return None };
        Some(link.way)
    }

    pub(super) fn open(&mut self, link: LinkId, way: Way, now: Instant) {
        self.links.insert(link, SimLink { way, state: SimState::Opening { since: now } });
    }

    pub(super) fn probe(&mut self, link: LinkId, now: Instant) {
        if let Some(SimLink { state: SimState::Up { asked, .. }, .. }) = self.links.get_mut(&link) {
            *asked = Some(now);
        }
    }

    /// The link has a new socket; what the driver tells of it.
    pub(super) fn rebind(&mut self, link: LinkId, now: Instant) -> Event {
        let place = self.links[&link].way.uplink.0 - 2;
        let new = self.uplinks[place as usize].host;
        if let SimState::Up { host, .. } = &mut self.links.get_mut(&link).unwrap().state {
            *host = new;
        }
        self.refresh(now);
        Event::LinkRebound { link, local: Some(address(place, new)) }
    }

    /// To be called after each change: notes which links work.
    pub(super) fn refresh(&mut self, now: Instant) {
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            let works = self.works(&self.links[&id]);
            if let SimState::Up { health, .. } = &mut self.links.get_mut(&id).unwrap().state {
                *health = match (*health, works) {
                    (Health::Ill(_), true) => Health::Well(now),
                    (Health::Well(_), false) => Health::Ill(now),
                    (same, _) => same,
                };
            }
        }
    }

    /// The next thing that happens by itself.
    pub(super) fn next(&self) -> Option<(Instant, Event)> {
        self.links.iter().filter_map(|(id, link)| self.next_of(*id, link)).min_by_key(|(time, _)| *time)
    }

    /// Notes that this was told.
    pub(super) fn told_event(&mut self, event: &Event, now: Instant) {
        match event {
            Event::LinkUp { link, .. } => {
                let way = self.links[link].way;
                let starts = self.gateways[way.gateway].starts;
                let host = self.uplinks[way.uplink.0 as usize - 2].host;
                let health = Health::Well(now);
                self.links.get_mut(link).unwrap().state =
                    SimState::Up { starts, host, health, asked: None, is_told_silent: false };
            }
            Event::LinkFailed { link, .. } | Event::LinkLost { link, .. } => {
                self.links.remove(link);
                self.active = self.active.filter(|active| active != link);
            }
            Event::LinkSilent { link } => self.set_told(*link, true),
            Event::LinkAnswers { link } => self.set_told(*link, false),
            _ => {}
        }
    }

    /// The links to this gateway.
    pub(super) fn links_to(&self, gateway: usize) -> Vec<LinkId> {
        self.links.iter().filter(|(_, link)| link.way.gateway == gateway).map(|(id, _)| *id).collect()
    }

    fn set_told(&mut self, link: LinkId, silent: bool) {
        if let SimState::Up { asked, is_told_silent, .. } = &mut self.links.get_mut(&link).unwrap().state {
            *asked = None;
            *is_told_silent = silent;
        }
    }

    fn next_of(&self, id: LinkId, link: &SimLink) -> Option<(Instant, Event)> {
        let round_trip = self.uplinks[link.way.uplink.0 as usize - 2].round_trip;
        match &link.state {
            SimState::Opening { since } => self.outcome(id, link.way, *since, round_trip),
            SimState::Up { starts, health, asked, is_told_silent, .. } => {
                let gateway = &self.gateways[link.way.gateway];
                let answers = gateway.state != GatewayState::Dark && gateway.state != GatewayState::Stopped;
                if self.passes(link.way) && answers && *starts != gateway.starts && self.active == Some(id) {
                    let loss = Loss::ByGateway("stateless reset".to_owned());
                    let time = self.changed(link.way) + round_trip + DETECTION;
                    return Some((time, Event::LinkLost { link: id, loss }));
                }
                match health {
                    Health::Well(_) if asked.is_some() => {
                        Some((asked.unwrap() + round_trip, Event::LinkAnswers { link: id }))
                    }
                    Health::Well(since) if *is_told_silent => {
                        Some((*since + round_trip, Event::LinkAnswers { link: id }))
                    }
                    Health::Ill(since) if self.active == Some(id) && !is_told_silent => {
                        Some((*since + DETECTION, Event::LinkSilent { link: id }))
                    }
                    Health::Ill(since) => {
                        let loss = Loss::ByPath("timed out".to_owned());
                        Some((*since + IDLE_TIMEOUT, Event::LinkLost { link: id, loss }))
                    }
                    Health::Well(_) => None,
                }
            }
        }
    }

    fn outcome(&self, id: LinkId, way: Way, since: Instant, round_trip: Duration) -> Option<(Instant, Event)> {
        if !self.passes(way) {
            return None;
        }
        let changed = self.changed(way);
        let sent = REPETITIONS.iter().map(|later| since + *later).find(|sent| *sent >= changed)?;
        let round_trips = if way.transport == Transport::Http3 { 2 } else { 4 };
        let event = match self.gateways[way.gateway].state {
            GatewayState::Works => {
                let place = way.uplink.0 - 2;
                Event::LinkUp { link: id, local: Some(address(place, self.uplinks[place as usize].host)) }
            }
            GatewayState::Refuses => Event::LinkFailed { link: id, failure: ConnectFailure::Refused("403".to_owned()) },
            GatewayState::Drains => {
                Event::LinkFailed { link: id, failure: ConnectFailure::Unreachable("going away".to_owned()) }
            }
            GatewayState::Stopped if way.transport == Transport::Http2 => {
                let failure = ConnectFailure::Unreachable("connection refused".to_owned());
                return Some((sent + round_trip, Event::LinkFailed { link: id, failure }));
            }
            GatewayState::Stopped | GatewayState::Dark => return None,
        };
        Some((sent + round_trip * round_trips, event))
    }

    /// Packets reach the gateway's machine.
    fn passes(&self, way: Way) -> bool {
        let uplink = &self.uplinks[way.uplink.0 as usize - 2];
        uplink.is_present && if way.transport == Transport::Http3 { uplink.udp } else { uplink.tcp }
    }

    fn changed(&self, way: Way) -> Instant {
        self.uplinks[way.uplink.0 as usize - 2].since.max(self.gateways[way.gateway].since)
    }

    fn works(&self, link: &SimLink) -> bool {
        let SimState::Up { starts, host, .. } = link.state else { return false };
        let gateway = &self.gateways[link.way.gateway];
        let answers = !matches!(gateway.state, GatewayState::Dark | GatewayState::Stopped);
        let has_address = self.uplinks[link.way.uplink.0 as usize - 2].host == host;
        self.passes(link.way) && answers && gateway.starts == starts && has_address
    }
}

fn describe(place: u32, host: u8) -> Uplink {
    Uplink {
        id: UplinkId(place + 2),
        name: format!("up{place}"),
        priority: 0,
        metered: place == 2,
        metric: place,
        addresses: vec![address(place, host)],
        network: format!("net{place}"),
    }
}

fn address(place: u32, host: u8) -> IpAddr {
    IpAddr::from([10, 0, u8::try_from(place).unwrap(), host])
}
