//! How long to wait before trying again.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Waiting times that double up to a limit, with jitter, so that a fleet that lost its gateway at one moment does not come
/// back in one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    limit: Duration,
    failures: u32,
}

impl Backoff {
    /// The first wait is at most `first`, and none is longer than `limit`.
    #[must_use]
    pub const fn new(first: Duration, limit: Duration) -> Self {
        Self { first, limit, failures: 0 }
    }

    /// The wait after one more failure: between half and all of the current step.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let doublings = self.failures.min(31);
        self.failures = self.failures.saturating_add(1);
        let step = self.first.saturating_mul(1 << doublings).min(self.limit);
        step.mul_f64(rng.random_range(0.5..=1.0))
    }

    /// Begins with the first wait again, after a success.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The two speeds of trying again: one for what passes by itself, one for what somebody has to decide or mend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pace {
    /// Networks, names, servers that restart, clocks: 1 second to 1 minute.
    pub quick: Backoff,
    /// Refusals: 1 minute to half an hour.
    pub slow: Backoff,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quick: Backoff::new(Duration::from_secs(1), Duration::from_secs(60)),
            slow: Backoff::new(Duration::from_secs(60), Duration::from_secs(30 * 60)),
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_differ_between_devices() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        let mut rng = StdRng::seed_from_u64(1);
        for step in [1u64, 2, 4, 8, 16, 32, 60, 60, 60] {
            let wait = backoff.next(&mut rng);
            assert!(wait >= Duration::from_secs(step) / 2 && wait <= Duration::from_secs(step), "{wait:?} of {step} s");
        }
        let mut other = StdRng::seed_from_u64(2);
        assert_ne!(backoff.clone().next(&mut rng), backoff.clone().next(&mut other));

        backoff.reset();
        assert!(backoff.next(&mut rng) <= Duration::from_secs(1));
    }

    #[test]
    fn a_year_of_failures_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(60), Duration::from_secs(1800));
        backoff.failures = u32::MAX - 1;
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..3 {
            assert!(backoff.next(&mut rng) <= Duration::from_secs(1800));
        }
    }
}
