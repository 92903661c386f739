//! With an active link that is well: something better is tried, one thing at a time.

use std::time::Instant;

use super::Roaming;
use super::link::Link;
use super::plan::Step;
use super::uplink::UplinkId;
use super::{Transport, Wanted};

/// What would be better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// This uplink, whatever gateway answers over it.
    Uplink(UplinkId),
    /// A gateway with a lower priority number.
    Gateway,
    /// HTTP/3 in place of HTTP/2.
    Http3,
}

impl Roaming {
    pub(super) fn improve(&mut self, now: Instant) {
        self.end_outage(now);
        self.end_target(now);
        if self.is_moving() || self.target.is_some() {
            return;
        }
        if let Some((_, target)) = self.due_target().filter(|(due, _)| due.is_none_or(|due| due <= now)) {
            self.target = Some(target);
            let steps = self.steps_to(target, now);
            self.search.begin(steps, now);
        }
    }

    /// What was tried did not work, if all attempts are over: it has its time again later.
    pub(super) fn end_target(&mut self, now: Instant) {
        if self.search.is_through()
            && !self.is_moving()
            && let Some(target) = self.target.take()
        {
            self.search.clear();
            self.put_off(target, now);
        }
    }

    /// When something better is to be tried.
    pub(super) fn next_improvement(&self) -> Option<Instant> {
        let is_well = self.trouble_of_active().is_none() && !self.is_unconfirmed() && self.outage.is_none();
        if !is_well || self.is_moving() || self.target.is_some() {
            return None;
        }
        self.due_target().and_then(|(due, _)| due)
    }

    /// What flaps has to prove itself, and so has UDP: what blocks it may let the first packets pass.
    pub(super) fn has_to_prove_itself(&self, target: Target, now: Instant) -> bool {
        match target {
            Target::Uplink(uplink) => self.uplinks.get(uplink).is_some_and(|entry| entry.losses(now) > 0),
            Target::Gateway => false,
            Target::Http3 => true,
        }
    }

    /// Attempts are under way, or the last move is not over yet.
    fn is_moving(&self) -> bool {
        self.links.values().any(|link: &Link| link.is_attempt() || link.retire_at.is_some())
    }

    /// What is due next, and when; `None` is at once.
    fn due_target(&self) -> Option<(Option<Instant>, Target)> {
        let active = self.active_link()?.way;
        let own = self.uplinks.get(active.uplink)?;
        let better = self.uplinks.present().into_iter().filter(|entry| entry.uplink.rank() < own.uplink.rank());
        let uplinks = better.map(|entry| {
            let trusted = entry.trusted_from();
            (Some(entry.retry.due().map_or(trusted, |due| due.max(trusted))), Target::Uplink(entry.uplink.id))
        });
        let has_better_gateway = self.has_better_gateway(active.gateway);
        let gateway = has_better_gateway.then(|| (own.gateway_retry.due(), Target::Gateway));
        let lacks_http3 = active.transport == Transport::Http2 && self.wanted == Wanted::Auto;
        let http3 = lacks_http3.then(|| (own.http3_retry.due(), Target::Http3));
        uplinks.chain(gateway).chain(http3).min_by_key(|(due, _)| *due)
    }

    fn steps_to(&self, target: Target, now: Instant) -> Vec<Step> {
        let Some(active) = self.active_link().map(|link| link.way) else { return Vec::new() };
        match target {
            Target::Uplink(uplink) => self.planner(self.gateways_from(Some(active.gateway)), now).over(uplink),
            Target::Gateway => {
                let own = self.priority(active.gateway);
                let better = (0..self.gateways.len()).filter(|gateway| self.priority(*gateway) < own).collect();
                self.planner(better, now).over(active.uplink)
            }
            Target::Http3 => {
                let own = self.priority(active.gateway);
                let mut equal = self.gateways_from(Some(active.gateway));
                equal.retain(|gateway| self.priority(*gateway) == own);
                self.planner(equal, now).http3(active.uplink)
            }
        }
    }

    fn put_off(&mut self, target: Target, now: Instant) {
        let Some(own) = self.active_link().map(|link| link.way.uplink) else { return };
        let uplink = if let Target::Uplink(uplink) = target { uplink } else { own };
        let Some(entry) = self.uplinks.get_mut(uplink) else { return };
        let retry = match target {
            Target::Uplink(_) => &mut entry.retry,
            Target::Gateway => &mut entry.gateway_retry,
            Target::Http3 => &mut entry.http3_retry,
        };
        retry.put_off(&mut self.rng, now);
    }
}
