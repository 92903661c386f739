//! When to look at the kernel's tables after they changed.

use std::time::{Duration, Instant};

/// A change counts when nothing else has changed for this long.
pub const QUIET: Duration = Duration::from_millis(200);

/// A change counts after this long, however restless the network is.
pub const AT_MOST: Duration = Duration::from_secs(2);

/// A lost address or route counts after this long: time for whoever replaces it to set the new one.
pub const LOSS_CHECK: Duration = Duration::from_millis(20);

/// What an event may be about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Something new.
    Other,
    /// An address or a route that is gone.
    Loss,
    /// A link without carrier: nobody replaces that.
    NoCarrier,
}

/// What to look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// Any change: the network has come to rest.
    Everything,
    /// Whether something is gone: the rest of the changes may follow.
    Losses,
}

/// Waits for the end of a burst of events, and not that long where something may be lost.
#[derive(Debug, Default)]
pub(super) struct Debouncer {
    burst: Option<Burst>,
    /// When a loss is looked for.
    loss: Option<Instant>,
}

#[derive(Debug)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Debouncer {
    pub(super) fn event(&mut self, news: News, now: Instant) {
        self.burst.get_or_insert(Burst { first: now, last: now }).last = now;
        let loss = match news {
            News::Other => None,
            News::Loss => Some(now + LOSS_CHECK),
            News::NoCarrier => Some(now),
        };
        self.loss = self.loss.into_iter().chain(loss).min();
    }

    /// When to look; `None` without events.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.burst_over(), self.loss].into_iter().flatten().min()
    }

    /// What is due at `now`, which is not due any more after that.
    pub(super) fn take(&mut self, now: Instant) -> Check {
        self.loss = None;
        if self.burst_over().is_some_and(|over| over > now) {
            return Check::Losses;
        }
        self.burst = None;
        Check::Everything
    }

    fn burst_over(&self) -> Option<Instant> {
        self.burst.as_ref().map(|burst| (burst.last + QUIET).min(burst.first + AT_MOST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_counts_once_and_not_too_late() {
        let start = Instant::now();
        let mut debouncer = Debouncer::default();
        assert_eq!(debouncer.due(), None);
        debouncer.event(News::Other, start);
        assert_eq!(debouncer.due(), Some(start + QUIET));
        debouncer.event(News::Other, start + 150 * MS);
        assert_eq!(debouncer.due(), Some(start + 150 * MS + QUIET));
        for step in 1..40 {
            debouncer.event(News::Other, start + 150 * step * MS);
        }
        assert_eq!(debouncer.due(), Some(start + AT_MOST));
        assert_eq!(debouncer.take(start + AT_MOST), Check::Everything);
        assert_eq!(debouncer.due(), None);
    }

    #[test]
    fn a_loss_is_looked_at_soon_and_again_when_all_is_quiet() {
        let start = Instant::now();
        let mut debouncer = Debouncer::default();
        debouncer.event(News::Loss, start);
        // Others of the same burst do not put it off.
        debouncer.event(News::Loss, start + 10 * MS);
        assert_eq!(debouncer.due(), Some(start + LOSS_CHECK));
        assert_eq!(debouncer.take(start + LOSS_CHECK), Check::Losses);
        assert_eq!(debouncer.due(), Some(start + 10 * MS + QUIET));
        assert_eq!(debouncer.take(start + 10 * MS + QUIET), Check::Everything);
        assert_eq!(debouncer.due(), None);
        // Carrier is another matter.
        debouncer.event(News::Loss, start + 500 * MS);
        debouncer.event(News::NoCarrier, start + 505 * MS);
        assert_eq!(debouncer.due(), Some(start + 505 * MS));
    }
}
