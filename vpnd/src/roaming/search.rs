//! A plan under way: what is still to be begun, and what the attempts have shown so far.

use std::time::Instant;

use super::link::Way;
use super::plan::Step;
use crate::state::ConnectFailure;

#[derive(Debug, Default)]
pub(super) struct Search {
    pending: Vec<Pending>,
    /// The gravest failure, and the gateway that it came from.
    verdict: Option<(usize, ConnectFailure)>,
}

#[derive(Debug)]
struct Pending {
    due: Instant,
    not_before: Instant,
    way: Way,
}

impl Search {
    /// In place of whatever was planned before.
    pub(super) fn begin(&mut self, steps: Vec<Step>, start: Instant) {
        self.pending = steps.into_iter().map(|step| Pending::new(step, start)).collect();
    }

    /// Besides what is planned already.
    pub(super) fn add(&mut self, steps: Vec<Step>, start: Instant) {
        self.pending.retain(|pending| !steps.iter().any(|step| step.way == pending.way));
        self.pending.extend(steps.into_iter().map(|step| Pending::new(step, start)));
    }

    pub(super) fn clear(&mut self) {
        self.pending.clear();
        self.verdict = None;
    }

    /// The next way whose time has come; what is not being tried yet goes before what is.
    pub(super) fn take_due(&mut self, now: Instant, is_being_tried: impl Fn(Way) -> bool) -> Option<Way> {
        let due = self.pending.iter().enumerate().filter(|(_, pending)| pending.at() <= now);
        let (place, _) = due.min_by_key(|(_, pending)| is_being_tried(pending.way))?;
        Some(self.pending.remove(place).way)
    }

    /// Not yet: `way` again at this time.
    pub(super) fn postpone(&mut self, way: Way, until: Instant) {
        self.pending.insert(0, Pending { due: until, not_before: until, way });
    }

    /// What was to be begun next is begun at once, and the rest as much sooner.
    pub(super) fn hurry(&mut self, now: Instant) {
        let Some(next) = self.pending.iter().map(|pending| pending.due).min() else { return };
        let sooner = next.saturating_duration_since(now);
        for pending in &mut self.pending {
            pending.due -= sooner;
        }
    }

    /// Leaves out what leads to this gateway.
    pub(super) fn skip_gateway(&mut self, gateway: usize) {
        self.pending.retain(|pending| pending.way.gateway != gateway);
    }

    /// Leaves everything out.
    pub(super) fn skip_all(&mut self) {
        self.pending.clear();
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.pending.iter().map(Pending::at).min()
    }

    pub(super) fn is_through(&self) -> bool {
        self.pending.is_empty()
    }

    pub(super) fn note(&mut self, gateway: usize, failure: ConnectFailure) {
        let former = self.verdict.as_ref().map(|(_, failure)| gravity(failure));
        let new = gravity(&failure);
        // Of equally grave ones the first one counts; of those that may pass, the last one.
        if former.is_none_or(|former| new > former || new == 0 && former == 0) {
            self.verdict = Some((gateway, failure));
        }
    }

    pub(super) fn take_verdict(&mut self) -> Option<(usize, ConnectFailure)> {
        self.verdict.take()
    }
}

impl Pending {
    fn new(step: Step, start: Instant) -> Self {
        Self { due: start + step.after, not_before: start + step.at_least, way: step.way }
    }

    fn at(&self) -> Instant {
        self.due.max(self.not_before)
    }
}

/// What somebody has to decide or mend weighs more than what may pass.
fn gravity(failure: &ConnectFailure) -> u8 {
    match failure {
        ConnectFailure::Unreachable(_) => 0,
        ConnectFailure::Untrusted(_) => 1,
        ConnectFailure::Local(_) => 2,
        ConnectFailure::Refused(_) => 3,
        ConnectFailure::Expired(_) => 4,
        ConnectFailure::Identity(_) => 5,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::roaming::{Transport, UplinkId};

    fn step(after: u64, at_least: u64, gateway: usize) -> Step {
        let way = Way { uplink: UplinkId(2), gateway, transport: Transport::Http3 };
        Step { after: Duration::from_millis(after), at_least: Duration::from_millis(at_least), way }
    }

    #[test]
    fn steps_come_in_their_time_or_when_what_was_before_has_failed() {
        let start = Instant::now();
        let ms = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut search = Search::default();
        search.begin(vec![step(0, 0, 0), step(1000, 0, 1), step(2000, 0, 2), step(3000, 3000, 3)], start);
        let take = |search: &mut Search, now| search.take_due(now, |_| false).map(|way| way.gateway);
        assert_eq!(take(&mut search, start), Some(0));
        assert_eq!(take(&mut search, ms(100)), None);
        search.hurry(ms(100));
        assert_eq!(take(&mut search, ms(100)), Some(1));
        assert_eq!(search.next_due(), Some(ms(1100)));
        search.hurry(ms(200));
        assert_eq!(take(&mut search, ms(200)), Some(2));
        // The last one has to settle first.
        search.hurry(ms(300));
        assert_eq!(search.next_due(), Some(ms(3000)));
    }

    #[test]
    fn the_gravest_failure_is_the_verdict() {
        let mut search = Search::default();
        let why = |text: &str| text.to_owned();
        search.note(0, ConnectFailure::Unreachable(why("first")));
        search.note(1, ConnectFailure::Unreachable(why("last")));
        assert_eq!(search.verdict, Some((1, ConnectFailure::Unreachable(why("last")))));
        search.note(0, ConnectFailure::Refused(why("first")));
        search.note(1, ConnectFailure::Untrusted(why("other")));
        search.note(1, ConnectFailure::Refused(why("last")));
        assert_eq!(search.take_verdict(), Some((0, ConnectFailure::Refused(why("first")))));
        assert_eq!(search.take_verdict(), None);
    }
}
