//! Without active link, or with one in trouble: everything else is tried, round after round.

use std::collections::BTreeMap;
use std::time::Instant;

use rand::RngExt;

use super::link::{Link, LinkId, Way};
use super::outage::Outage;
use super::plan::Step;
use super::timing::{
    AGAIN, ALARM_DELAY, ATTEMPT, ATTEMPT_BETTER, CONFIRM, LEAVING_SPREAD, MOST_ATTEMPTS, PATIENCE, step,
};
use super::uplink::UplinkId;
use super::{CloseReason, Command, Report, Roaming, Trouble};
use crate::state::ConnectFailure;

impl Roaming {
    pub(super) fn restore(&mut self, trouble: Trouble, now: Instant) {
        let is_new = match &mut self.outage {
            Some(outage) => outage.becomes(trouble, now),
            None => {
                self.outage = Some(Outage::new(trouble, now));
                true
            }
        };
        if is_new {
            // What is being tried may be the rescue; what was to be tried next is another matter.
            self.target = None;
            self.search.clear();
        }
        if !self.search.is_through() {
            return;
        }
        let is_over = !self.links.values().any(Link::is_attempt);
        if is_over || self.is_round_due(now) {
            self.end_round(now);
        }
        if self.is_round_due(now) {
            self.begin_round(trouble, now);
        }
    }

    /// Opens what the search says is due.
    pub(super) fn open_due(&mut self, now: Instant) {
        while let Some(way) = self.search.take_due(now, |way| is_being_tried(&self.links, way)) {
            if !self.uplinks.is_present(way.uplink) {
                continue;
            }
            if let Some(later) = self.being_tried_until(way, now) {
                self.search.postpone(way, later);
                continue;
            }
            if let Some(later) = self.make_room(way, now) {
                return self.search.postpone(way, later);
            }
            self.open(way, now);
        }
    }

    /// An uplink came or is another one, while the tunnel is down or in trouble: it is tried besides what is planned. Where the active
    /// link goes over it, that one has its chance first.
    pub(super) fn try_besides(&mut self, uplink: UplinkId, now: Instant) {
        let own = self.active_link().map(|link| link.way);
        let is_leaving = self.trouble_of_active() == Some(Trouble::Leaving);
        let Some(outage) = &mut self.outage else { return };
        outage.something_changed(now);
        let gateways = match own {
            Some(own) if is_leaving => self.gateways_after(own.gateway),
            _ => self.gateways_from(self.last_way.map(|way| way.gateway)),
        };
        let steps = self.planner(gateways, now).over(uplink);
        let is_own = own.is_some_and(|own| own.uplink == uplink);
        self.search.add(steps, if is_own && !is_leaving { now + CONFIRM } else { now });
    }

    fn is_round_due(&self, now: Instant) -> bool {
        self.outage.as_ref().is_some_and(|outage| outage.is_due(now))
    }

    /// Reports how a round ended. Without a key and certificate, the next one waits.
    fn end_round(&mut self, now: Instant) {
        // While there is a link, however ill, its end will say more.
        let Some((gateway, failure)) = self.search.take_verdict().filter(|_| self.active.is_none()) else { return };
        let Some(outage) = &mut self.outage else { return };
        if matches!(failure, ConnectFailure::Identity(_) | ConnectFailure::Expired(_)) {
            outage.unable(&mut self.rng, now);
        }
        self.report(Report::Failed { gateway: Some(gateway), failure });
    }

    fn begin_round(&mut self, trouble: Trouble, now: Instant) {
        let steps = self.plan(trouble, now);
        let spread = std::mem::take(&mut self.spread);
        let delay = if trouble == Trouble::Silent { step(&ALARM_DELAY, self.false_alarms.count(now)) } else { spread };
        let length = steps.iter().map(|step| step.after + delay).max();
        let Some(outage) = &mut self.outage else { return };
        outage.round(length, &mut self.rng, now);
        if length.is_none() && !self.uplinks.present().is_empty() {
            // Every gateway has refused.
            let refusals = self.gateways.iter().filter_map(|gateway| gateway.refusal.due());
            outage.next_round = refusals.filter(|due| *due > now).min();
        } else if length.is_none() && self.active.is_none() {
            let failure = ConnectFailure::Unreachable("there is no uplink".to_owned());
            self.report(Report::Failed { gateway: None, failure });
        }
        self.search.begin(steps, now + delay);
    }

    fn plan(&mut self, trouble: Trouble, now: Instant) -> Vec<Step> {
        let is_first = self.outage.as_ref().is_none_or(|outage| outage.rounds == 0);
        let own = self.last_way;
        let planner = match trouble {
            Trouble::Leaving => self.planner(self.gateways_after(own.map_or(0, |way| way.gateway)), now),
            // The gateway of the last link has the session.
            _ if is_first => self.planner(self.gateways_from(own.map(|way| way.gateway)), now),
            _ => self.planner(self.gateways_from(None), now),
        };
        match own {
            Some(own) if is_first => {
                let jitter = LEAVING_SPREAD.mul_f64(self.rng.random_range(0.0..=1.0));
                planner.rescue(trouble, own, jitter)
            }
            None if is_first => planner.first(),
            _ => planner.again(),
        }
    }

    /// All gateways, beginning with the one after this, which is the last.
    fn gateways_after(&self, gateway: usize) -> Vec<usize> {
        let count = self.gateways.len();
        (1..=count).map(|place| (gateway + place) % count).collect()
    }

    /// An attempt at the same makes a second one pointless until it is that old.
    fn being_tried_until(&self, way: Way, now: Instant) -> Option<Instant> {
        let attempts = self.links.values().filter(|link| link.way == way && link.is_attempt());
        attempts.map(|link| link.since + AGAIN).max().filter(|old| *old > now)
    }

    /// `None` where there is room for one more attempt, at the cost of another one if need be; otherwise when there will be. The first
    /// attempt at a way is worth more than the second one at another.
    fn make_room(&mut self, way: Way, now: Instant) -> Option<Instant> {
        let attempts: Vec<(LinkId, &Link)> =
            self.links.iter().filter(|(_, link)| link.is_attempt()).map(|(id, link)| (*id, link)).collect();
        if attempts.len() < MOST_ATTEMPTS {
            return None;
        }
        let is_first = !is_being_tried(&self.links, way);
        let is_doubled = |way: Way| attempts.iter().filter(|(_, link)| link.way == way).count() > 1;
        let is_old = |link: &Link| link.since + PATIENCE <= now;
        let oldest = |choice: &dyn Fn(&Link) -> bool| {
            attempts.iter().filter(|(_, link)| choice(link)).min_by_key(|(_, link)| link.since).map(|(id, _)| *id)
        };
        match oldest(&|link| is_old(link) || is_first && is_doubled(link.way)) {
            Some(old) => {
                self.close(old, CloseReason::TimedOut);
                None
            }
            None => attempts.iter().map(|(_, link)| link.since + PATIENCE).min(),
        }
    }

    fn open(&mut self, way: Way, now: Instant) {
        self.last_link += 1;
        let id = LinkId(self.last_link);
        let is_on_probation = self.target.is_some_and(|target| self.has_to_prove_itself(target, now));
        let limit = if self.target.is_some() { ATTEMPT_BETTER } else { ATTEMPT };
        self.links.insert(id, Link::opening(way, is_on_probation, now + limit, now));
        let Way { uplink, gateway, transport } = way;
        self.commands.push(Command::Open { link: id, uplink, gateway, transport });
    }

    /// The trouble is over by itself: the link works again.
    pub(super) fn end_outage(&mut self, now: Instant) {
        let Some(outage) = self.outage.take() else { return };
        if outage.trouble == Trouble::Silent {
            self.false_alarms.happened(now);
        }
        self.search.clear();
        self.close_where(CloseReason::NotNeeded, |_, _, link| link.is_attempt());
    }
}

fn is_being_tried(links: &BTreeMap<LinkId, Link>, way: Way) -> bool {
    links.values().any(|link| link.is_attempt() && link.way == way)
}
