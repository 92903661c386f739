//! Keeps one tunnel alive over several connections, as a state machine without I/O.
//!
//! A *link* is one connection: over an uplink, to a gateway, by a transport. Exactly one link is *active*: the machine's packets go into
//! it. Packets are accepted from every link that is up. The driver feeds [`Event`]s and the time, carries out the [`Command`]s that come
//! back, and calls [`Roaming::handle_timeout`] when [`Roaming::poll_timeout`] is reached.
//!
//! Every call ends by bringing what is in line with what should be, in five steps:
//!
//! | module | step |
//! |---|---|
//! | `clock` | what is over at this time: attempts, probation, links that were replaced |
//! | `choose` | the active link: the best one that is up and has no trouble |
//! | `restore` | without active link, or with one in trouble: rounds of attempts, at first soon and then rarely |
//! | `improve` | with one that is well: one attempt at a time at something better |
//! | `tell` | reports what is not as it was |
//!
//! What a round tries, and how soon one attempt follows the other, is a plan (`plan`) that is carried out by `search`. What happens comes
//! in through `happen`. `book` keeps the uplinks, `memory` what is known of networks, [`keepalive`] how long their NATs are patient.
//!
//! # What is better
//! An uplink that is not metered, then the lower priority number, then the lower metric; over the same uplink the gateway with the lower
//! priority number; to the same gateway HTTP/3. A link is left for a better one only when that one is up, and for a worse one only in
//! trouble: no uplink, no answer, or a gateway that says it is going down.

mod book;
mod choose;
mod clock;
mod command;
mod config;
mod event;
mod happen;
mod improve;
pub mod keepalive;
mod link;
mod memory;
mod outage;
mod plan;
mod recent;
mod restore;
mod search;
mod tell;
#[cfg(test)]
mod tests;
mod timing;
mod uplink;
mod view;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use m2m_protocol::device_config::Transport as Wanted;
use rand::SeedableRng;
use rand::rngs::StdRng;

use book::Book;
pub use command::{CloseReason, Command, Report, Stall, Transport};
pub use config::Config;
pub use event::{Event, Loss};
use improve::Target;
pub use link::LinkId;
use link::{Link, Rank, Way};
pub use memory::{Memory, Udp};
use outage::Outage;
use plan::{Lane, Planner};
use recent::{Recent, Retry};
use search::Search;
use tell::Told;
pub use uplink::{Uplink, UplinkId};
pub use view::{LinkState, LinkView, Phase, UplinkView, View};

/// The state machine.
#[derive(Debug)]
pub struct Roaming {
    gateways: Vec<Gateway>,
    wanted: Wanted,
    on_demand: bool,
    life: Life,
    rng: StdRng,
    memory: Memory,
    uplinks: Book,
    links: BTreeMap<LinkId, Link>,
    last_link: u64,
    active: Option<LinkId>,
    /// What the active link was made of, or is.
    last_way: Option<Way>,
    /// While there is no active link or it is in trouble.
    outage: Option<Outage>,
    /// What is better and being tried.
    target: Option<Target>,
    search: Search,
    /// Silences that ended by themselves.
    false_alarms: Recent,
    /// How long the first round waits: many devices may have lost the same gateway.
    spread: Duration,
    told: Told,
    commands: Vec<Command>,
}

#[derive(Debug)]
struct Gateway {
    priority: u16,
    /// When it may be asked again, after it did not let this device in.
    refusal: Retry,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Awake,
    Asleep,
    Stopped,
}

/// What is wrong with the tunnel, the gravest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// There is no link.
    Gone,
    /// Its uplink is gone.
    Stranded,
    /// The gateway does not answer.
    Silent,
    /// The gateway is about to end it.
    Leaving,
}

impl Gateway {
    fn new(priority: u16) -> Self {
        Self { priority, refusal: Retry::new(timing::REFUSED) }
    }

    fn may_be_asked(&self, now: Instant) -> bool {
        self.refusal.due().is_none_or(|due| due <= now)
    }
}

impl Roaming {
    /// The machine and what to do first. `seed` makes the jitter of this device.
    #[must_use]
    pub fn new(config: Config, seed: u64, now: Instant) -> (Self, Vec<Command>) {
        let mut roaming = Self {
            gateways: config.gateways.into_iter().map(Gateway::new).collect(),
            wanted: config.transport,
            on_demand: config.on_demand,
            life: if config.on_demand { Life::Asleep } else { Life::Awake },
            rng: StdRng::seed_from_u64(seed),
            memory: config.memory,
            uplinks: Book::default(),
            links: BTreeMap::new(),
            last_link: 0,
            active: None,
            last_way: None,
            outage: None,
            target: None,
            search: Search::default(),
            false_alarms: Recent::new(timing::ALARMS_COUNT),
            spread: Duration::ZERO,
            told: Told::default(),
            commands: Vec::new(),
        };
        let commands = roaming.handle(Event::UplinksChanged(config.uplinks), now);
        (roaming, commands)
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Command> {
        self.happen(event, now);
        self.settle(now)
    }

    /// When to call [`Roaming::handle_timeout`]; `None` while only an event can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.life != Life::Awake {
            return None;
        }
        let links = self.links.values().filter_map(Link::deadline);
        // A round is not begun before all attempts of the one before it are.
        let outage = self.outage.as_ref().filter(|_| !self.is_unconfirmed() && self.search.is_through());
        let round = outage.and_then(|outage| outage.next_round);
        links.chain(self.search.next_due()).chain(round).chain(self.next_improvement()).min()
    }

    /// Does what is due at `now`, if anything is.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Command> {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        self.settle(now)
    }

    /// What was learned of networks, to be stored and given to the next run.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    fn settle(&mut self, now: Instant) -> Vec<Command> {
        if self.life == Life::Awake {
            self.pass_time(now);
            self.choose(now);
            self.tell_active();
            self.open_due(now);
            match self.trouble_of_active() {
                Some(trouble) => self.restore(trouble, now),
                None if self.is_unconfirmed() => {}
                None => self.improve(now),
            }
            self.open_due(now);
            self.end_target(now);
        } else {
            self.tell_active();
        }
        self.tell();
        std::mem::take(&mut self.commands)
    }

    fn active_link(&self) -> Option<&Link> {
        self.links.get(&self.active?)
    }

    fn trouble_of_active(&self) -> Option<Trouble> {
        self.active_link().map_or(Some(Trouble::Gone), |link| self.trouble(link))
    }

    fn trouble(&self, link: &Link) -> Option<Trouble> {
        if !self.uplinks.is_present(link.way.uplink) {
            return Some(Trouble::Stranded);
        }
        if link.is_silent() {
            return Some(Trouble::Silent);
        }
        link.is_leaving.then_some(Trouble::Leaving)
    }

    /// The active link's path is new, and whether it works is about to be seen.
    fn is_unconfirmed(&self) -> bool {
        self.active_link().is_some_and(Link::is_unconfirmed)
    }

    /// `None` for a way over an uplink that is not known any more.
    fn rank(&self, way: Way) -> Option<Rank> {
        let uplink = self.uplinks.get(way.uplink)?.uplink.rank();
        Some(Rank { uplink, gateway: self.priority(way.gateway), transport: way.transport })
    }

    /// Whether the first of the two is better than the second.
    fn is_better(&self, way: Way, than: Way) -> bool {
        match (self.rank(way), self.rank(than)) {
            (Some(one), Some(other)) => one < other,
            (one, other) => one.is_some() && other.is_none(),
        }
    }

    fn priority(&self, gateway: usize) -> u16 {
        self.gateways.get(gateway).map_or(u16::MAX, |gateway| gateway.priority)
    }

    /// Whether there is a gateway with a lower priority number.
    fn has_better_gateway(&self, than: usize) -> bool {
        self.gateways.iter().any(|gateway| gateway.priority < self.priority(than))
    }

    /// All gateways, this one first and then the others from the preferred one on.
    fn gateways_from(&self, first: Option<usize>) -> Vec<usize> {
        let others = (0..self.gateways.len()).filter(|gateway| Some(*gateway) != first);
        first.into_iter().chain(others).collect()
    }

    /// Makes plans for these gateways, but those that would refuse.
    fn planner(&self, mut gateways: Vec<usize>, now: Instant) -> Planner {
        gateways.retain(|gateway| self.gateways.get(*gateway).is_some_and(|gateway| gateway.may_be_asked(now)));
        let lane = |entry: &&book::Entry| Lane {
            uplink: entry.uplink.id,
            is_metered: entry.uplink.metered,
            udp_is_dead: self.memory.udp(&entry.uplink.network) == Udp::Dead,
            settled_in: entry.settled_at().saturating_duration_since(now),
        };
        Planner { wanted: self.wanted, lanes: self.uplinks.present().iter().map(lane).collect(), gateways }
    }

    /// Forgets a link and has it closed.
    fn close(&mut self, id: LinkId, reason: CloseReason) {
        if self.links.remove(&id).is_some() {
            self.commands.push(Command::Close { link: id, reason });
        }
    }

    /// Closes all links that `choose` picks.
    fn close_where(&mut self, reason: CloseReason, choose: impl Fn(&Self, LinkId, &Link) -> bool) {
        let chosen: Vec<LinkId> =
            self.links.iter().filter(|(id, link)| choose(self, **id, link)).map(|(id, _)| *id).collect();
        for id in chosen {
            self.close(id, reason);
        }
    }
}
