//! Which link is active.

use std::time::{Duration, Instant};

use super::link::{Link, LinkId, Stage, Way};
use super::timing::{GRACE, HTTP3_IS_STABLE, OVERLAP};
use super::{CloseReason, Command, Roaming, Transport, Trouble, Udp};

impl Roaming {
    /// Moves to the best link that is up, if it is better than the active one, or if that one is in trouble.
    pub(super) fn choose(&mut self, now: Instant) {
        let is_in_trouble = self.trouble_of_active().is_some() || self.is_unconfirmed();
        let usable =
            self.links.iter().filter(|(id, link)| Some(**id) != self.active && self.is_usable(link, is_in_trouble));
        let best = usable.min_by_key(|(id, link)| (self.rank(link.way), **id)).map(|(id, link)| (*id, link.way));
        if let Some((id, way)) = best
            && (is_in_trouble || self.active_link().is_none_or(|active| self.is_better(way, active.way)))
        {
            self.switch(id, way, now);
        }
        if self.active.is_some() {
            let active = self.active;
            self.close_where(CloseReason::NotNeeded, |_, id, link| {
                Some(id) != active && link.is_up() && link.retire_at.is_none()
            });
        }
    }

    /// In trouble, one that still has to prove itself will do, and so will one that was to be closed.
    fn is_usable(&self, link: &Link, is_in_trouble: bool) -> bool {
        let is_candidate = match link.stage {
            Stage::Opening { .. } => false,
            Stage::Proving { .. } => is_in_trouble,
            Stage::Up { confirm_by, .. } => confirm_by.is_none() && (is_in_trouble || link.retire_at.is_none()),
        };
        is_candidate && self.trouble(link).is_none()
    }

    fn switch(&mut self, to: LinkId, way: Way, now: Instant) {
        let from = self.active.replace(to);
        self.last_way = Some(way);
        if let Some(link) = self.links.get_mut(&to) {
            link.retire_at = None;
            if let Stage::Proving { local, .. } = link.stage {
                link.enter(Stage::Up { local, is_silent: false, confirm_by: None }, now);
            }
        }
        self.commands.push(Command::Activate { link: to });
        if let Some(from) = from {
            self.leave(from, way, now);
        }
        self.outage = None;
        self.spread = Duration::ZERO;
        self.target = None;
        self.search.clear();
        self.keep_only_better_attempts(way, now);
        let has_better_gateway = self.has_better_gateway(way.gateway);
        let Some(entry) = self.uplinks.get_mut(way.uplink) else { return };
        if way.transport == Transport::Http2 {
            entry.http3_retry.put_off(&mut self.rng, now);
        }
        if has_better_gateway {
            entry.gateway_retry.put_off(&mut self.rng, now);
        }
    }

    /// The former active link stays for a moment, for what is in flight.
    fn leave(&mut self, from: LinkId, to: Way, now: Instant) {
        let Some(link) = self.links.get(&from) else { return };
        let (way, up_for) = (link.way, now.saturating_duration_since(link.since));
        match self.trouble(link) {
            Some(Trouble::Stranded) => return self.close(from, CloseReason::Replaced),
            Some(Trouble::Silent) if to.uplink != way.uplink => {
                if let Some(entry) = self.uplinks.get_mut(way.uplink) {
                    entry.lost(now);
                }
            }
            Some(Trouble::Silent) if way.transport == Transport::Http3 && to.transport == Transport::Http2 => {
                if up_for >= HTTP3_IS_STABLE
                    && let Some(entry) = self.uplinks.get_mut(way.uplink)
                {
                    entry.http3_retry.reset();
                }
                if to.gateway == way.gateway {
                    self.note_udp(way.uplink, Udp::Dead);
                }
            }
            _ => {}
        }
        if let Some(link) = self.links.get_mut(&from) {
            link.retire_at = Some(now + OVERLAP);
        }
    }

    /// What would be even better has a moment to come up, too. The rest is not needed any more.
    fn keep_only_better_attempts(&mut self, than: Way, now: Instant) {
        self.close_where(CloseReason::NotNeeded, |this, _, link| link.is_attempt() && !this.is_better(link.way, than));
        for link in self.links.values_mut() {
            link.hurry(now + GRACE);
        }
    }
}
