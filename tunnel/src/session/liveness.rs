//! Whether the peer is still there: keepalive pings, and the time that what was sent goes without an answer.

use std::time::{Duration, Instant};

/// No answer counts as missing before this time has passed: some retransmissions on a fast path.
const SHORTEST_SILENCE: Duration = Duration::from_millis(300);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A ping, because nothing was sent for the keepalive interval.
    Ping,
    /// To say that the peer does not answer.
    Silent,
}

/// Follows what is sent and what is answered.
#[derive(Debug)]
pub(super) struct Liveness {
    keepalive: Option<Duration>,
    sent: u64,
    received: u64,
    last_sent: Instant,
    /// When the first of what has no answer yet was sent.
    waiting_since: Option<Instant>,
    is_silent: bool,
}

impl Liveness {
    pub(super) fn new(keepalive: Option<Duration>, now: Instant) -> Self {
        Self { keepalive, sent: 0, received: 0, last_sent: now, waiting_since: None, is_silent: false }
    }

    pub(super) fn set_keepalive(&mut self, interval: Option<Duration>) {
        self.keepalive = interval;
    }

    /// Takes the numbers of frames so far: `sent` of those that ask for an answer, `received` of all. Whether the peer answers
    /// again after it was said to be silent.
    pub(super) fn observe(&mut self, sent: u64, received: u64, now: Instant) -> bool {
        let answers_again = self.is_silent && received > self.received;
        if received > self.received {
            self.received = received;
            self.waiting_since = None;
            self.is_silent = false;
        }
        if sent > self.sent {
            self.sent = sent;
            self.last_sent = now;
            self.waiting_since.get_or_insert(now);
        }
        answers_again
    }

    /// How long the oldest of what was sent waits for an answer.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.waiting_since.map(|since| now.saturating_duration_since(since)).unwrap_or_default()
    }

    /// When [`due`](Self::due) has something, on a path with this round trip time.
    pub(super) fn deadline(&self, round_trip: Duration) -> Option<Instant> {
        let ping = self.keepalive.map(|interval| self.last_sent + interval);
        let silent = self.waiting_since.filter(|_| !self.is_silent).map(|since| since + patience(round_trip));
        ping.into_iter().chain(silent).min()
    }

    pub(super) fn due(&mut self, round_trip: Duration, now: Instant) -> Option<Due> {
        if !self.is_silent && self.waiting_since.is_some_and(|since| since + patience(round_trip) <= now) {
            self.is_silent = true;
            return Some(Due::Silent);
        }
        if self.keepalive.is_some_and(|interval| self.last_sent + interval <= now) {
            // Until the ping is on its way.
            self.last_sent = now;
            return Some(Due::Ping);
        }
        None
    }
}

/// The answer comes after a round trip, the peer's delay of acknowledgements and, where it was lost, a retransmission or two.
fn patience(round_trip: Duration) -> Duration {
    SHORTEST_SILENCE.max(round_trip * 3 + Duration::from_millis(100))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(20);

    #[test]
    fn a_ping_is_due_after_the_interval_without_sending() {
        let start = Instant::now();
        let mut liveness = Liveness::new(Some(Duration::from_secs(25)), start);
        assert_eq!(liveness.deadline(RTT), Some(start + Duration::from_secs(25)));
        assert_eq!(liveness.due(RTT, start + Duration::from_secs(24)), None);
        assert_eq!(liveness.due(RTT, start + Duration::from_secs(25)), Some(Due::Ping));
        assert_eq!(liveness.due(RTT, start + Duration::from_secs(25)), None);
    }

    #[test]
    fn silence_is_told_once_and_an_answer_ends_it() {
        let start = Instant::now();
        let mut liveness = Liveness::new(None, start);
        assert!(!liveness.observe(1, 0, start));
        let later = start + SHORTEST_SILENCE;
        assert_eq!(liveness.deadline(RTT), Some(later));
        assert_eq!(liveness.due(RTT, later), Some(Due::Silent));
        assert_eq!(liveness.due(RTT, later + RTT), None);
        assert!(!liveness.observe(5, 0, later));
        assert_eq!(liveness.silence(later), SHORTEST_SILENCE);
        assert!(liveness.observe(5, 1, later));
        assert_eq!((liveness.silence(later), liveness.deadline(RTT)), (Duration::ZERO, None));
    }

    #[test]
    fn a_slow_path_gets_more_patience() {
        let start = Instant::now();
        let mut liveness = Liveness::new(None, start);
        liveness.observe(1, 0, start);
        let rtt = Duration::from_millis(600);
        assert_eq!(liveness.due(rtt, start + Duration::from_millis(1800)), None);
        assert_eq!(liveness.due(rtt, start + Duration::from_millis(1900)), Some(Due::Silent));
    }
}
