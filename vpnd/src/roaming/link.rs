//! One connection to a gateway.

use std::net::IpAddr;
use std::time::Instant;

use super::Transport;
use super::uplink::{UplinkId, UplinkRank};

/// Names a connection; no two have the same name in one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(super) u64);

impl LinkId {
    /// The number that is its name.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

/// A way to the company: what a connection is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Way {
    pub(super) uplink: UplinkId,
    pub(super) gateway: usize,
    pub(super) transport: Transport,
}

/// How good a way is; less is better. The uplink says most, because it costs money, then the gateway, then the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    pub(super) uplink: UplinkRank,
    /// The gateway's priority.
    pub(super) gateway: u16,
    pub(super) transport: Transport,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) way: Way,
    pub(super) stage: Stage,
    /// When the stage began.
    pub(super) since: Instant,
    /// The gateway is about to end it.
    pub(super) is_leaving: bool,
    /// It has to prove itself before it is used.
    pub(super) is_on_probation: bool,
    /// When it is closed, after another one took its place.
    pub(super) retire_at: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// The driver connects.
    Opening { give_up_at: Instant },
    /// Up, and still to be proven.
    Proving { local: Option<IpAddr>, answers: u32, is_asked: bool, probe_at: Instant, give_up_at: Instant },
    /// Up.
    Up {
        /// The address that it comes from.
        local: Option<IpAddr>,
        /// The gateway does not answer.
        is_silent: bool,
        /// The path is another one, and the gateway's answer over it has to be there by then.
        confirm_by: Option<Instant>,
    },
}

impl Link {
    pub(super) fn opening(way: Way, is_on_probation: bool, give_up_at: Instant, now: Instant) -> Self {
        let stage = Stage::Opening { give_up_at };
        Self { way, stage, since: now, is_leaving: false, is_on_probation, retire_at: None }
    }

    pub(super) fn enter(&mut self, stage: Stage, now: Instant) {
        self.stage = stage;
        self.since = now;
    }

    /// Connects, or proves itself.
    pub(super) fn is_attempt(&self) -> bool {
        !self.is_up()
    }

    pub(super) fn is_opening(&self) -> bool {
        matches!(self.stage, Stage::Opening { .. })
    }

    pub(super) fn is_proving(&self) -> bool {
        matches!(self.stage, Stage::Proving { .. })
    }

    pub(super) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up { .. })
    }

    pub(super) fn is_silent(&self) -> bool {
        matches!(self.stage, Stage::Up { is_silent: true, .. })
    }

    /// Whether its new path is still to be confirmed.
    pub(super) fn is_unconfirmed(&self) -> bool {
        matches!(self.stage, Stage::Up { confirm_by: Some(_), .. })
    }

    /// When something is due for it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Opening { give_up_at } => Some(give_up_at),
            Stage::Proving { probe_at, give_up_at, .. } => Some(probe_at.min(give_up_at)),
            Stage::Up { confirm_by, .. } => [confirm_by, self.retire_at].into_iter().flatten().min(),
        }
    }

    /// An attempt ends at this time at the latest.
    pub(super) fn hurry(&mut self, limit: Instant) {
        if let Stage::Opening { give_up_at } | Stage::Proving { give_up_at, .. } = &mut self.stage {
            *give_up_at = limit.min(*give_up_at);
        }
    }
}
