//! How many bytes may wait in front of a path: what it carries in a few milliseconds, found by watching it.

use std::{ops::RangeInclusive, time::Duration};

use tokio::time::Instant;

/// How long a byte should wait at most. It covers the time in which tasks call each other on a busy machine.
const TARGET: Duration = Duration::from_millis(5);

/// Long enough for the bursts to even out in which a socket takes bytes.
const PERIOD: Duration = Duration::from_millis(50);

/// A limit of bytes that follows the path's speed.
#[derive(Debug)]
pub(super) struct Pace {
    limit: usize,
    bounds: RangeInclusive<usize>,
    period_since: Instant,
    carried: usize,
    /// Whether more would have come in this period than the limit allowed.
    was_pressed: bool,
}

impl Pace {
    pub(super) fn new(first: usize, bounds: RangeInclusive<usize>, now: Instant) -> Self {
        Self { limit: first, bounds, period_since: now, carried: 0, was_pressed: false }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// More would come than the limit allows.
    pub(super) fn press(&mut self) {
        self.was_pressed = true;
    }

    /// The path took bytes; `was_blocked` says whether it took nothing for a while in this period.
    pub(super) fn carry(&mut self, bytes: usize, now: Instant, was_blocked: impl FnOnce() -> bool) {
        self.carried += bytes;
        let time = now - self.period_since;
        if time < PERIOD {
            return;
        }
        let was_blocked = was_blocked();
        // Unless more would have come, the bytes say nothing about the path.
        if self.was_pressed {
            let at_target = self.carried as f64 * TARGET.as_secs_f64() / time.as_secs_f64();
            // A path that always took everything could have taken more.
            let limit = if was_blocked { at_target as usize } else { self.limit * 2 };
            self.limit = limit.clamp(*self.bounds.start(), *self.bounds.end());
        }
        self.period_since = now;
        self.carried = 0;
        self.was_pressed = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(16_000, 1500..=256_000, Instant::now())
    }

    /// A path of `rate` bytes per second that takes bytes in bursts, and is always given what it may get.
    fn settle(pace: &mut Pace, rate: f64, burst: usize) -> usize {
        let mut now = pace.period_since;
        for _ in 0..10_000 {
            pace.press();
            pace.carry(burst, now, || true);
            now += Duration::from_secs_f64(burst as f64 / rate);
        }
        pace.limit()
    }

    #[test]
    fn it_follows_the_path() {
        let mut pace = pace();
        let at_2_mbit = settle(&mut pace, 250e3, 16_000);
        assert!((1500..2000).contains(&at_2_mbit), "{at_2_mbit}");
        let at_100_mbit = settle(&mut pace, 12.5e6, 64_000);
        assert!((50_000..75_000).contains(&at_100_mbit), "{at_100_mbit}");
        assert_eq!(settle(&mut pace, 1e9, 64_000), 256_000);
        assert_eq!(settle(&mut pace, 1e3, 1500), 1500);
    }

    #[test]
    fn a_path_that_takes_everything_gets_more() {
        let mut pace = pace();
        pace.press();
        pace.carry(100, pace.period_since + PERIOD, || false);
        assert_eq!(pace.limit(), 32_000);
    }

    #[test]
    fn a_user_with_little_to_send_changes_nothing() {
        let mut pace = pace();
        pace.carry(100, pace.period_since + PERIOD, || true);
        assert_eq!(pace.limit(), 16_000);
    }
}
