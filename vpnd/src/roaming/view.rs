//! What is going on, for the status.

use std::time::Instant;

use super::link::{Link, LinkId, Stage};
use super::uplink::UplinkId;
use super::{Life, Roaming, Stall, Transport, Trouble, Udp};

/// What is going on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// In one word.
    pub phase: Phase,
    /// The link that the machine's packets go into.
    pub active: Option<LinkId>,
    /// All links, the oldest first.
    pub links: Vec<LinkView>,
    /// The uplinks that are there, the best first.
    pub uplinks: Vec<UplinkView>,
}

/// What the tunnel is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// On demand: waiting for a packet.
    Asleep,
    /// Attempts are under way, and there is no link.
    Connecting,
    /// There is no link, and the next attempts wait for this time, or for an uplink.
    Waiting {
        /// The time.
        until: Option<Instant>,
    },
    /// The tunnel works.
    Connected,
    /// There is a link that does not work now.
    Interrupted(Stall),
    /// It works, and its gateway is about to end it.
    Leaving,
    /// The tunnel is not wanted any more.
    Stopped,
}

/// One link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkView {
    /// Its name.
    pub id: LinkId,
    /// Its uplink.
    pub uplink: UplinkId,
    /// Which gateway of [`Config::gateways`](super::Config::gateways).
    pub gateway: usize,
    /// By what.
    pub transport: Transport,
    /// What it is doing.
    pub state: LinkState,
    /// Since when it is opening, proving itself, or up.
    pub since: Instant,
}

/// What a link is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkState {
    /// The driver connects.
    Opening,
    /// Up, and not used before it has proven itself.
    Proving,
    /// Up.
    Up,
    /// Up, but the gateway does not answer.
    Silent,
    /// Up, but its uplink is gone.
    Stranded,
    /// Replaced; it still takes what is in flight.
    Retiring,
}

/// One uplink.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UplinkView {
    /// The interface.
    pub id: UplinkId,
    /// Its name.
    pub name: String,
    /// Each byte costs.
    pub metered: bool,
    /// Since when it is there without letting the tunnel down.
    pub since: Instant,
    /// How often it came and went, or let the tunnel down, in the ten minutes before that.
    pub losses: usize,
    /// Whether UDP gets through.
    pub udp: Udp,
}

impl Roaming {
    /// What is going on.
    #[must_use]
    pub fn view(&self) -> View {
        let links = self.links.iter().map(|(id, link)| self.view_link(*id, link));
        let uplinks = self.uplinks.present().into_iter().map(|entry| UplinkView {
            id: entry.uplink.id,
            name: entry.uplink.name.clone(),
            metered: entry.uplink.metered,
            since: entry.since,
            losses: entry.losses(entry.since),
            udp: self.memory.udp(&entry.uplink.network),
        });
        View { phase: self.phase(), active: self.active, links: links.collect(), uplinks: uplinks.collect() }
    }

    fn phase(&self) -> Phase {
        match (self.life, self.trouble_of_active()) {
            (Life::Asleep, _) => Phase::Asleep,
            (Life::Stopped, _) => Phase::Stopped,
            (Life::Awake, None) => Phase::Connected,
            (Life::Awake, Some(Trouble::Leaving)) => Phase::Leaving,
            (Life::Awake, Some(Trouble::Stranded)) => Phase::Interrupted(Stall::NoUplink),
            (Life::Awake, Some(Trouble::Silent)) => Phase::Interrupted(Stall::NoAnswer),
            (Life::Awake, Some(Trouble::Gone)) if self.links.is_empty() => {
                let round = self.outage.as_ref().and_then(|outage| outage.next_round);
                Phase::Waiting { until: round.into_iter().chain(self.search.next_due()).min() }
            }
            (Life::Awake, Some(Trouble::Gone)) => Phase::Connecting,
        }
    }

    fn view_link(&self, id: LinkId, link: &Link) -> LinkView {
        let state = match link.stage {
            Stage::Opening { .. } => LinkState::Opening,
            Stage::Proving { .. } => LinkState::Proving,
            Stage::Up { .. } if link.retire_at.is_some() => LinkState::Retiring,
            Stage::Up { .. } => match self.trouble(link) {
                Some(Trouble::Stranded) => LinkState::Stranded,
                Some(Trouble::Silent) => LinkState::Silent,
                _ => LinkState::Up,
            },
        };
        let (uplink, gateway, transport) = (link.way.uplink, link.way.gateway, link.way.transport);
        LinkView { id, uplink, gateway, transport, state, since: link.since }
    }
}
