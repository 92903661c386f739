//! How often everything is tried while the tunnel is down or in trouble.

use std::time::{Duration, Instant};

use rand::Rng;

use super::Trouble;
use super::timing::{OLD, OUTAGE_IS_YOUNG, YOUNG};
use crate::state::Backoff;

#[derive(Debug)]
pub(super) struct Outage {
    pub(super) trouble: Trouble,
    /// The beginning, or the last change.
    since: Instant,
    /// Rounds since the trouble is what it is.
    pub(super) rounds: u32,
    pub(super) last_round: Instant,
    /// `None` while there is nothing to try, until an uplink comes.
    pub(super) next_round: Option<Instant>,
    young: Backoff,
    old: Backoff,
}

impl Outage {
    /// The first round is due at once.
    pub(super) fn new(trouble: Trouble, now: Instant) -> Self {
        let backoff = |(first, limit): (Duration, Duration)| Backoff::new(first, limit);
        Self {
            trouble,
            since: now,
            rounds: 0,
            last_round: now,
            next_round: Some(now),
            young: backoff(YOUNG),
            old: backoff(OLD),
        }
    }

    /// Whether a round is due.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next_round.is_some_and(|next| next <= now)
    }

    /// Whether the trouble is another one now: then a round of its own is due at once.
    pub(super) fn becomes(&mut self, trouble: Trouble, now: Instant) -> bool {
        let is_new = self.trouble != trouble;
        if is_new {
            self.trouble = trouble;
            self.rounds = 0;
            self.next_round = Some(now);
        }
        is_new
    }

    /// Something new is being tried besides: the waits are short again.
    pub(super) fn something_changed(&mut self, now: Instant) {
        self.since = now;
        self.young.reset();
        let soon = now + YOUNG.1;
        self.next_round = Some(self.next_round.map_or(soon, |next| next.min(soon)));
    }

    /// A round begins, whose last attempt begins after `length`; `None` for a round without attempts.
    pub(super) fn round(&mut self, length: Option<Duration>, rng: &mut impl Rng, now: Instant) {
        self.rounds += 1;
        self.last_round = now;
        let is_young = now.saturating_duration_since(self.since) < OUTAGE_IS_YOUNG;
        let pause = if is_young { self.young.next(rng) } else { self.old.next(rng) };
        self.next_round = length.map(|length| now + pause.max(length));
    }

    /// This device has nothing to connect with.
    pub(super) fn unable(&mut self, rng: &mut impl Rng, now: Instant) {
        self.next_round = Some(now + self.old.next(rng));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn waits_stay_short_for_ten_minutes_and_then_grow_to_one() {
        let start = Instant::now();
        let mut rng = StdRng::seed_from_u64(1);
        let mut outage = Outage::new(Trouble::Gone, start);
        let mut now = start;
        let mut longest = Duration::ZERO;
        while now < start + Duration::from_secs(3600) {
            outage.round(Some(Duration::ZERO), &mut rng, now);
            let next = outage.next_round.unwrap_or(now);
            let wait = next.saturating_duration_since(now);
            if now < start + OUTAGE_IS_YOUNG {
                assert!(wait <= Duration::from_secs(4), "{wait:?}");
            }
            longest = longest.max(wait);
            now = next;
        }
        assert!(longest > Duration::from_secs(40) && longest <= Duration::from_secs(60), "{longest:?}");
    }
}
