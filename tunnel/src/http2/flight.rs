//! How many bytes a TCP connection has under way. The kernel fills whatever buffer stands before the slowest link, and no queue management
//! reaches what waits there; so the round trip is watched, and while a queue stands it is given less than it would take.

use std::time::Duration;

use tokio::time::Instant;

use crate::congestion::{QueueWatch, Seen};

/// How often the kernel is asked, while there is no limit.
const PERIOD: Duration = Duration::from_millis(5);

/// Segments that may always be under way.
const LEAST_SEGMENTS: usize = 2;

/// A limit grows by this share of it in a round trip, or by a segment.
const GROWTH: usize = 8;

/// A limit that was not met for so long is none.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// What the kernel says of a connection (TCP_INFO).
#[derive(Debug, Clone, Copy)]
pub(super) struct Sample {
    /// Smoothed (RFC 6298 §2).
    pub(super) round_trip: Duration,
    /// Bytes that are not acknowledged, sent or not.
    pub(super) under_way: usize,
    /// Bytes of a full segment.
    pub(super) segment: usize,
}

/// The limit of one connection.
#[derive(Debug)]
pub(super) struct Flight {
    watch: QueueWatch,
    limit: Option<usize>,
    /// More is under way than the new limit allows.
    is_draining: bool,
    round_trip: Duration,
    looked: Option<Instant>,
    grown: Instant,
    met: Instant,
}

impl Flight {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            watch: QueueWatch::default(),
            limit: None,
            is_draining: false,
            round_trip: PERIOD,
            looked: None,
            grown: now,
            met: now,
        }
    }

    /// Whether the kernel has to be asked before more is written.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.limit.is_some() || self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= PERIOD)
    }

    /// Whether more may be written; if not, when to look again.
    pub(super) fn look(&mut self, sample: Sample, now: Instant) -> Result<(), Duration> {
        self.round_trip = sample.round_trip;
        self.looked = Some(now);
        if self.is_draining {
            self.is_draining = self.limit.is_some_and(|limit| sample.under_way >= limit);
            self.watch.restart(sample.round_trip, now.into_std());
        } else {
            self.judge(sample, now);
        }
        if self.limit.is_none_or(|limit| sample.under_way < limit) {
            return Ok(());
        }
        self.met = now;
        Err((self.round_trip / 8).clamp(Duration::from_millis(1), Duration::from_millis(20)))
    }

    fn judge(&mut self, sample: Sample, now: Instant) {
        let least = LEAST_SEGMENTS * sample.segment;
        let can_give_way = self.limit.is_none_or(|limit| limit > least);
        match self.watch.look(sample.round_trip, can_give_way, now.into_std()) {
            Seen::Nothing => self.grow(sample.segment, now),
            Seen::Burst | Seen::Begin => {}
            Seen::InVain => self.limit = None,
            Seen::Stands { base } => {
                let share = base.as_secs_f64() / sample.round_trip.as_secs_f64().max(f64::MIN_POSITIVE);
                let held = self.limit.unwrap_or(usize::MAX).min(sample.under_way);
                self.limit = Some(((held as f64 * share.clamp(0.5, 1.0)) as usize).max(least));
                self.is_draining = true;
                (self.grown, self.met) = (now, now);
            }
        }
    }

    fn grow(&mut self, segment: usize, now: Instant) {
        let Some(limit) = &mut self.limit else { return };
        if now.saturating_duration_since(self.met) > FORGOTTEN {
            self.limit = None;
            return;
        }
        // A limit that is not met says nothing about the path.
        if self.met > self.grown && now.saturating_duration_since(self.grown) >= self.round_trip {
            *limit += segment.max(*limit / GROWTH);
            self.grown = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = 1448;

    /// A connection whose kernel sends all that it is given over a link of `rate` bytes a second, for `time`; the share of the link that was
    /// used and the longest round trip of the second half.
    fn fill(rate: f64, path: Duration, time: Duration) -> (f64, Duration) {
        let start = Instant::now();
        let mut now = start;
        let mut flight = Flight::new(now);
        // A kernel that finds the path by itself takes 10 segments first, and up to 1 MB.
        let mut window = 10.0 * SEGMENT as f64;
        let (mut under_way, mut carried, mut longest, mut smoothed) = (0.0f64, 0.0, Duration::ZERO, path);
        let step = Duration::from_millis(1);
        assert!(flight.look(Sample { round_trip: path, under_way: 0, segment: SEGMENT }, now).is_ok());
        while now < start + time {
            now += step;
            // The path holds what it holds; the rest waits before the link.
            let drained = (rate * step.as_secs_f64()).min(under_way * step.as_secs_f64() / path.as_secs_f64());
            under_way -= drained;
            let round_trip = path.max(Duration::from_secs_f64(under_way / rate));
            smoothed = smoothed * 7 / 8 + round_trip / 8;
            if now > start + time / 2 {
                carried += drained;
                longest = longest.max(round_trip);
            }
            window = (window + drained).min(1e6);
            loop {
                let sample = Sample { round_trip: smoothed, under_way: under_way as usize, segment: SEGMENT };
                if flight.is_due(now) && flight.look(sample, now).is_err() || under_way > window {
                    break;
                }
                under_way += SEGMENT as f64;
            }
        }
        (carried / (rate * time.as_secs_f64() / 2.0), longest)
    }

    #[test]
    fn a_thin_link_is_used_and_its_buffer_is_not() {
        let (share, longest) = fill(250e3, Duration::from_millis(1), Duration::from_secs(20));
        assert!(share > 0.9, "{share}");
        assert!(longest < Duration::from_millis(30), "{longest:?}");
    }

    #[test]
    fn a_long_path_is_filled() {
        let path = Duration::from_millis(40);
        let (share, longest) = fill(6e6, path, Duration::from_secs(20));
        assert!(share > 0.9, "{share}");
        assert!(longest < path + Duration::from_millis(30), "{longest:?}");
    }

    #[test]
    fn a_path_without_a_queue_has_no_limit() {
        let mut now = Instant::now();
        let mut flight = Flight::new(now);
        for _ in 0..1000 {
            now += PERIOD;
            let sample = Sample { round_trip: Duration::from_millis(20), under_way: 10_000_000, segment: SEGMENT };
            assert!(flight.look(sample, now).is_ok());
        }
    }

    #[test]
    fn a_limit_that_is_not_met_is_forgotten() {
        let mut now = Instant::now();
        let mut flight = Flight::new(now);
        let quick = Sample { round_trip: Duration::from_millis(1), under_way: 100_000, segment: SEGMENT };
        let slow = Sample { round_trip: Duration::from_millis(90), ..quick };
        let idle = Sample { under_way: 0, ..quick };
        assert!(flight.look(quick, now).is_ok());
        while flight.look(slow, now).is_ok() {
            now += PERIOD;
        }
        let since = now;
        while flight.limit.is_some() {
            now += PERIOD;
            assert!(flight.look(idle, now).is_ok());
        }
        assert!(now - since < FORGOTTEN + Duration::from_secs(1));
    }
}
