//! How often something happened lately, and when to try something again.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use rand::Rng;

use crate::state::Backoff;

/// Counts what happened within a time window.
#[derive(Debug)]
pub(super) struct Recent {
    window: Duration,
    times: VecDeque<Instant>,
}

/// More than this is not told apart.
const MOST: usize = 16;

impl Recent {
    pub(super) fn new(window: Duration) -> Self {
        Self { window, times: VecDeque::new() }
    }

    pub(super) fn happened(&mut self, now: Instant) {
        self.times.push_back(now);
        if self.times.len() > MOST {
            self.times.pop_front();
        }
    }

    pub(super) fn count(&self, now: Instant) -> usize {
        self.times.iter().filter(|time| now.saturating_duration_since(**time) < self.window).count()
    }
}

/// When to try something again that failed, or that is not due yet.
#[derive(Debug)]
pub(super) struct Retry {
    backoff: Backoff,
    due: Option<Instant>,
}

impl Retry {
    /// Due at once; after failures, after waits between these two.
    pub(super) fn new((first, limit): (Duration, Duration)) -> Self {
        Self { backoff: Backoff::new(first, limit), due: None }
    }

    /// When it is due; `None` is at once.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Not before the next wait is over. What is waited for already is not put off.
    pub(super) fn put_off(&mut self, rng: &mut impl Rng, now: Instant) {
        if self.due.is_none_or(|due| due <= now) {
            self.due = Some(now + self.backoff.next(rng));
        }
    }

    /// Due at once, and after short waits again.
    pub(super) fn reset(&mut self) {
        self.backoff.reset();
        self.due = None;
    }
}
