//! How long a network's NAT keeps a binding that nothing passes through, found out by using it.
//!
//! Over QUIC the gateway is asked to send something back after a silence of the current interval (see `tunnel/src/session/liveness.rs`), over
//! TCP each ping follows such a silence: each interval is a measurement of itself; traffic in between only delays it.
//! The search climbs by half while pings are answered, halves when the binding was lost, and closes in between the two. Then it stays a
//! tenth below what was proven. A binding lost only once is asked about once more after [`DOUBT`] answers, because a router that was
//! rebooted during a test looks the same; lost twice, it is believed for good.
//!
//! Tests run on the active connection, not on one of their own: a second connection would cost more each day than the search saves, and
//! a silence of the length of a test shows that nobody uses the tunnel at that moment. What a failed test costs is bounded: QUIC goes on
//! with the next ping from its new binding, HTTP/2 is connected anew, and until then at most one interval passes in which the company
//! cannot reach the device first.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first interval in a network that is not known.
pub const FIRST: Duration = Duration::from_secs(25);
/// No interval is shorter.
pub const SHORTEST: Duration = Duration::from_secs(15);
/// No interval is longer, however patient the NAT is: it is also how late a dead gateway is noticed without traffic.
pub const LONGEST: Duration = Duration::from_secs(600);
/// Answers after which a binding that was lost once is tested once more: some hours of short intervals, a day of long ones.
pub const DOUBT: u32 = 1000;

/// The search is over when the shortest silence that was too long is within this many percent of the longest that was not.
const CLOSE_ENOUGH: u64 = 115;
/// The percentage of the longest proven silence that is used in the end.
const MARGIN: u64 = 90;

/// What is known of one network, and the interval that follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Keepalive {
    /// A silence that bindings are known or, before the first answer, hoped to survive.
    good_ms: u64,
    /// A ping after `good_ms` was answered.
    proven: bool,
    /// The shortest silence that cost a binding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bad_ms: Option<u64>,
    /// How often `bad_ms` did.
    #[serde(default)]
    losses: u8,
    /// Pings that were answered since the search was over.
    #[serde(default)]
    answers: u32,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { good_ms: milliseconds(FIRST), proven: false, bad_ms: None, losses: 0, answers: 0 }
    }
}

impl Keepalive {
    /// After how much silence to ping.
    #[must_use]
    pub fn interval(&self) -> Duration {
        let interval = match (self.proven, self.bad_ms) {
            (false, _) => self.good_ms,
            (true, Some(bad)) if self.is_settled() && self.losses < 2 && self.answers >= DOUBT => bad,
            (true, _) if self.is_settled() => self.good_ms * MARGIN / 100,
            (true, Some(bad)) => self.good_ms.midpoint(bad),
            (true, None) => self.good_ms * 3 / 2,
        };
        Duration::from_millis(interval).clamp(SHORTEST, LONGEST)
    }

    /// A ping after this silence, both ways, was answered over the same binding.
    pub fn answered(&mut self, silence: Duration) {
        let silence = milliseconds(silence.min(LONGEST));
        if self.bad_ms.is_some_and(|bad| silence >= bad) {
            self.bad_ms = None;
            self.losses = 0;
        }
        if silence > self.good_ms || !self.proven && silence == self.good_ms {
            self.good_ms = silence;
            self.proven = true;
            self.answers = 0;
        } else if self.is_settled() && silence * 100 >= self.good_ms * (MARGIN - 5) {
            self.answers = self.answers.saturating_add(1);
        }
    }

    /// After this silence the binding was another one, or there was none.
    pub fn lost(&mut self, silence: Duration) {
        // Nothing that keeps bindings for seconds only is a NAT's timer: the address changed, or the router was rebooted.
        if silence < SHORTEST {
            return;
        }
        let silence = milliseconds(silence);
        match self.bad_ms {
            // Timers are not exact.
            Some(bad) if silence * 100 >= bad * 95 && silence * 100 <= bad * 105 => {
                self.losses = self.losses.saturating_add(1);
            }
            Some(bad) if silence > bad => {}
            _ => {
                self.bad_ms = Some(silence);
                self.losses = 1;
            }
        }
        if silence <= self.good_ms {
            self.good_ms = (silence / 2).max(milliseconds(SHORTEST));
            self.proven = false;
        }
        self.answers = 0;
    }

    /// The search is over.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let close = |bad: u64| bad * 100 <= self.good_ms * CLOSE_ENOUGH;
        self.proven && (self.good_ms >= milliseconds(LONGEST) || self.bad_ms.is_some_and(close))
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes on the wire of QUIC's ping and its acknowledgement, with UDP and IPv4 headers.
    const PING_BYTES: f64 = 133.0;
    const DAY: Duration = Duration::from_secs(86400);

    /// An idle connection behind a NAT that forgets bindings after `timeout`.
    struct Idle {
        keepalive: Keepalive,
        timeout: Duration,
        elapsed: Duration,
        pings: u32,
        losses: u32,
        last_loss: Duration,
    }

    impl Idle {
        fn behind(timeout: Duration) -> Self {
            let keepalive = Keepalive::default();
            Self { keepalive, timeout, elapsed: Duration::ZERO, pings: 0, losses: 0, last_loss: Duration::ZERO }
        }

        fn ping(&mut self) {
            let silence = self.keepalive.interval();
            self.elapsed += silence;
            self.pings += 1;
            if silence < self.timeout {
                return self.keepalive.answered(silence);
            }
            self.losses += 1;
            self.last_loss = self.elapsed;
            self.keepalive.lost(silence);
        }

        fn until(mut self, end: Duration) -> Self {
            while self.elapsed < end {
                self.ping();
            }
            self
        }
    }

    #[test]
    fn an_idle_day_behind_a_nat_of_two_minutes_costs_less_than_200_kilobytes() {
        let first = Idle::behind(Duration::from_secs(120)).until(DAY);
        let first_day = f64::from(first.pings) * PING_BYTES / 1000.0;
        let kept = first.keepalive.interval();
        let later_day = DAY.as_secs_f64() / kept.as_secs_f64() * PING_BYTES / 1000.0;
        println!(
            "first day {first_day:.1} kB with {} losses, later days {later_day:.1} kB at {kept:.1?}",
            first.losses
        );
        assert!(first_day < 200.0 && later_day < 200.0);
    }

    #[test]
    fn without_a_nat_the_interval_ends_below_the_longest() {
        let idle = Idle::behind(Duration::MAX).until(DAY);
        assert_eq!(idle.losses, 0);
        assert_eq!(idle.keepalive.interval(), LONGEST * 9 / 10);
    }

    #[test]
    fn a_binding_lost_by_accident_is_doubted_once() {
        let mut idle = Idle::behind(Duration::from_secs(300));
        idle.ping();
        // The router is rebooted.
        idle.keepalive.lost(Duration::from_secs(37));
        idle = idle.until(DAY / 8);
        assert!(idle.keepalive.is_settled());
        assert!(idle.keepalive.interval() < Duration::from_secs(37));
        idle = idle.until(3 * DAY);
        assert!(idle.keepalive.interval() > Duration::from_secs(200), "{:?}", idle.keepalive);
    }

    #[test]
    fn a_nat_that_gets_less_patient_is_followed() {
        let mut idle = Idle::behind(Duration::from_secs(300)).until(DAY);
        idle.timeout = Duration::from_secs(40);
        idle.losses = 0;
        let idle = idle.until(2 * DAY);
        assert!(idle.keepalive.interval() < Duration::from_secs(40) && idle.losses <= 6, "{} losses", idle.losses);
    }

    #[test]
    fn a_new_address_after_a_moment_says_nothing_about_the_nat() {
        let mut keepalive = Keepalive::default();
        keepalive.lost(Duration::from_secs(2));
        assert_eq!(keepalive, Keepalive::default());
    }

    #[test]
    fn it_is_kept_as_text() {
        let idle = Idle::behind(Duration::from_secs(120)).until(DAY / 10);
        let text = serde_json::to_string(&idle.keepalive).unwrap();
        assert_eq!(serde_json::from_str::<Keepalive>(&text).unwrap(), idle.keepalive);
    }

    proptest! {
        #[test]
        fn it_converges_below_any_timeout_and_then_loses_nothing(milliseconds in 20_000u64..=600_000) {
            let timeout = Duration::from_millis(milliseconds);
            let idle = Idle::behind(timeout).until(10 * DAY);
            prop_assert!(idle.losses <= 6, "{} losses", idle.losses);
            prop_assert!(idle.last_loss <= 8 * DAY, "the last loss after {:?}", idle.last_loss);
            let kept = idle.keepalive.interval();
            prop_assert!(kept < timeout);
            // Not needlessly short.
            prop_assert!(kept >= timeout * 7 / 10, "{kept:?} of {timeout:?}");
        }

        #[test]
        fn whatever_is_measured_the_interval_stays_in_its_limits(
            measured in proptest::collection::vec((any::<bool>(), 0u64..2_000_000), 0..200),
        ) {
            let mut keepalive = Keepalive::default();
            for (answered, silence) in measured {
                let silence = Duration::from_millis(silence);
                if answered { keepalive.answered(silence) } else { keepalive.lost(silence) }
                prop_assert!((SHORTEST..=LONGEST).contains(&keepalive.interval()));
            }
        }
    }
}
