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

/// What an observation shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The peer answers, after it was silent or was asked to.
    Answers,
    /// The answer to a ping came over the path as it was before this silence.
    Kept(Duration),
    /// The answer to a ping came over a path that the peer sees as a new one: the NAT's binding did not survive this silence.
    Rebound(Duration),
}

/// Numbers of frames since the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Frames {
    /// Sent, of those that ask for an answer.
    pub(super) sent: u64,
    /// Received, all of them.
    pub(super) received: u64,
    /// Received, of those by which a peer validates a path (PATH_CHALLENGE, RFC 9000 §8.2).
    pub(super) challenges: u64,
}

/// Follows what is sent and what is answered.
#[derive(Debug)]
pub(super) struct Liveness {
    keepalive: Option<Duration>,
    frames: Frames,
    /// When something was sent or received.
    last_activity: Instant,
    /// When the first of what has no answer yet was sent.
    waiting_since: Option<Instant>,
    is_silent: bool,
    /// Somebody wants to know of the next answer.
    is_asked: bool,
    /// The silence that a ping ended whose answer has not come.
    silence: Option<Duration>,
}

impl Liveness {
    pub(super) fn new(keepalive: Option<Duration>, now: Instant) -> Self {
        Self {
            keepalive,
            frames: Frames::default(),
            last_activity: now,
            waiting_since: None,
            is_silent: false,
            is_asked: false,
            silence: None,
        }
    }

    pub(super) fn set_keepalive(&mut self, interval: Option<Duration>) {
        self.keepalive = interval;
    }

    /// The next answer is news.
    pub(super) fn ask(&mut self) {
        self.is_asked = true;
    }

    /// Takes the numbers of frames so far.
    pub(super) fn observe(&mut self, frames: Frames, now: Instant) -> Option<News> {
        let former = std::mem::replace(&mut self.frames, frames);
        let mut news = None;
        if frames.received > former.received {
            self.last_activity = now;
            self.waiting_since = None;
            if std::mem::take(&mut self.is_silent) | std::mem::take(&mut self.is_asked) {
                news = Some(News::Answers);
            }
            if let Some(silence) = self.silence.take() {
                let is_new_path = frames.challenges > former.challenges;
                news = news.or(Some(if is_new_path { News::Rebound(silence) } else { News::Kept(silence) }));
            }
        }
        if frames.sent > former.sent {
            self.last_activity = now;
            self.waiting_since.get_or_insert(now);
        }
        news
    }

    /// How long the oldest of what was sent waits for an answer.
    pub(super) fn silence(&self, now: Instant) -> Duration {
        self.waiting_since.map(|since| now.saturating_duration_since(since)).unwrap_or_default()
    }

    /// When [`due`](Self::due) has something, on a path with this round trip time.
    pub(super) fn deadline(&self, round_trip: Duration) -> Option<Instant> {
        let ping = self.keepalive.map(|interval| self.last_activity + interval);
        let silent = self.waiting_since.filter(|_| !self.is_silent).map(|since| since + patience(round_trip));
        ping.into_iter().chain(silent).min()
    }

    pub(super) fn due(&mut self, round_trip: Duration, now: Instant) -> Option<Due> {
        if !self.is_silent && self.waiting_since.is_some_and(|since| since + patience(round_trip) <= now) {
            self.is_silent = true;
            self.silence = None;
            return Some(Due::Silent);
        }
        if self.keepalive.is_some_and(|interval| self.last_activity + interval <= now) {
            self.silence = Some(now.saturating_duration_since(self.last_activity));
            // Until the ping is on its way.
            self.last_activity = now;
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
        let frames = |sent, received| Frames { sent, received, challenges: 0 };
        assert_eq!(liveness.observe(frames(1, 0), start), None);
        let later = start + SHORTEST_SILENCE;
        assert_eq!(liveness.deadline(RTT), Some(later));
        assert_eq!(liveness.due(RTT, later), Some(Due::Silent));
        assert_eq!(liveness.due(RTT, later + RTT), None);
        assert_eq!(liveness.observe(frames(5, 0), later), None);
        assert_eq!(liveness.silence(later), SHORTEST_SILENCE);
        assert_eq!(liveness.observe(frames(5, 1), later), Some(News::Answers));
        assert_eq!((liveness.silence(later), liveness.deadline(RTT)), (Duration::ZERO, None));
    }

    #[test]
    fn a_slow_path_gets_more_patience() {
        let start = Instant::now();
        let mut liveness = Liveness::new(None, start);
        liveness.observe(Frames { sent: 1, ..Frames::default() }, start);
        let rtt = Duration::from_millis(600);
        assert_eq!(liveness.due(rtt, start + Duration::from_millis(1800)), None);
        assert_eq!(liveness.due(rtt, start + Duration::from_millis(1900)), Some(Due::Silent));
    }

    #[test]
    fn the_answer_to_a_ping_tells_whether_the_binding_survived() {
        let interval = Duration::from_secs(25);
        for (challenges, expected) in [(0, News::Kept(interval)), (1, News::Rebound(interval))] {
            let start = Instant::now();
            let mut liveness = Liveness::new(Some(interval), start);
            let now = start + interval;
            assert_eq!(liveness.due(RTT, now), Some(Due::Ping));
            liveness.observe(Frames { sent: 1, received: 0, challenges: 0 }, now);
            assert_eq!(liveness.observe(Frames { sent: 1, received: 1, challenges }, now + RTT), Some(expected));
            assert_eq!(liveness.observe(Frames { sent: 1, received: 2, challenges }, now + RTT), None);
        }
    }
}
