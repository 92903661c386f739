//! The time by which certificates are judged on a machine that may boot in 1970.

use rustls::{pki_types::UnixTime, time_provider::TimeProvider};

/// The system's clock, but never earlier than a floor: the later of build time and the last time that was
/// saved. Validation of certificates is never switched off for want of a clock.
#[derive(Clone, Copy, Debug)]
pub struct FlooredClock {
    floor: UnixTime,
}

impl FlooredClock {
    /// A clock that is never earlier than `floor`.
    pub fn new(floor: UnixTime) -> Self {
        Self { floor }
    }

    /// `now`, or the floor if that is later.
    pub fn at_least(&self, now: UnixTime) -> UnixTime {
        now.max(self.floor)
    }
}

impl TimeProvider for FlooredClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Some(self.at_least(UnixTime::since_unix_epoch(now)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(seconds: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(seconds))
    }

    #[test]
    fn a_clock_in_1970_is_lifted_to_the_floor_and_a_right_one_is_left_alone() {
        let clock = FlooredClock::new(at(1_800_000_000));
        assert_eq!(clock.at_least(at(42)), at(1_800_000_000));
        assert_eq!(clock.at_least(at(1_900_000_000)), at(1_900_000_000));
    }
}
