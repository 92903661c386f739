//! Whether the peer is still there: keepalive pings, and the time that what was sent goes without an answer.
//!
//! How long a NAT on the way keeps a binding without traffic cannot be learned by pings: many give the next one the same port, so that
//! the peer sees no change, and only what the peer sent meanwhile is lost. So a client asks the peer to send something back after a
//! silence (an ECHO capsule): when it comes, the binding has outlived that silence.

use std::time::{Duration, Instant};

/// No answer counts as missing before this time has passed: some retransmissions on a fast path.
const SHORTEST_SILENCE: Duration = Duration::from_millis(300);

/// An echo that comes later than this behind its time, and some round trips, does not come.
const ECHO_LATE: Duration = Duration::from_secs(2);

/// A NAT keeps a UDP binding for two minutes at least (RFC 4787 §4.3).
const UNPROVEN: Duration = Duration::from_secs(110);

/// A NAT may get less patient; after so many pings it is looked again.
const PINGS_PER_ECHO: u32 = 20;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A ping, because nothing was sent for the keepalive interval.
    Ping,
    /// To ask for an echo after this time.
    Echo(Duration),
    /// To say that the peer does not answer.
    Silent,
}

/// What an observation shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// The peer answers, after it was silent or was asked to.
    Answers,
    /// The peer's echo came after this silence, or the answer to a ping over the path as it was before it.
    Kept(Duration),
    /// The echo did not come, or the answer to a ping came over a path that the peer sees as a new one: the NAT's binding did not survive
    /// this silence.
    Rebound(Duration),
}

/// Numbers of frames since the connection began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Frames {
    /// Sent, of those that ask for an answer.
    pub(super) sent: u64,
    /// Received, all of them.
    pub(super) received: u64,
    /// Received, without acknowledgements and pings.
    pub(super) data: u64,
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
    /// It ended because an echo did not come.
    is_echo_missing: bool,
    /// The peer sends echoes.
    has_echo: bool,
    echo: Option<Echo>,
    /// The longest silence that an echo came after.
    proven: Duration,
    /// Pings since the last echo.
    pings: u32,
}

/// An echo that was asked for.
#[derive(Debug)]
struct Echo {
    delay: Duration,
    asked: Instant,
    /// The question itself was seen among the frames sent.
    is_sent: bool,
    /// Something else passed meanwhile.
    is_disturbed: bool,
}

impl Echo {
    /// When it is late.
    fn end(&self, round_trip: Duration) -> Instant {
        self.asked + self.delay + ECHO_LATE + round_trip * 3
    }
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
            is_echo_missing: false,
            has_echo: false,
            echo: None,
            proven: Duration::ZERO,
            pings: 0,
        }
    }

    /// The peer sends echoes.
    pub(super) fn peer_has_echo(&mut self) {
        self.has_echo = true;
    }

    /// An echo came that was asked for with this delay.
    pub(super) fn echoed(&mut self, delay: Duration, now: Instant) -> Option<News> {
        let echo = self.echo.take_if(|echo| echo.delay == delay)?;
        // Then the silence was shorter; it will be asked for again.
        if echo.is_disturbed || now.saturating_duration_since(echo.asked) < delay {
            return None;
        }
        self.last_activity = now;
        self.proven = self.proven.max(delay);
        self.pings = 0;
        Some(News::Kept(delay))
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
                let is_lost = std::mem::take(&mut self.is_echo_missing) || frames.challenges > former.challenges;
                if is_lost {
                    self.proven = self.proven.min(silence / 2);
                }
                // Where there are echoes, only they prove anything new.
                let is_proven = !self.has_echo || silence <= self.proven;
                news = news.or(match (is_lost, is_proven) {
                    (true, _) => Some(News::Rebound(silence)),
                    (false, true) => Some(News::Kept(silence)),
                    (false, false) => None,
                });
            }
        }
        if let Some(echo) = &mut self.echo {
            let is_sending = frames.sent > former.sent;
            echo.is_disturbed |= frames.data > former.data || is_sending && echo.is_sent;
            echo.is_sent |= is_sending;
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
        let ping = self.interval().map(|interval| match &self.echo {
            None if self.wants_echo(interval) => self.last_activity,
            Some(echo) if !echo.is_disturbed => echo.end(round_trip),
            _ => self.last_activity + interval,
        });
        let silent = self.waiting_since.filter(|_| !self.is_silent).map(|since| since + patience(round_trip));
        ping.into_iter().chain(silent).min()
    }

    pub(super) fn due(&mut self, round_trip: Duration, now: Instant) -> Option<Due> {
        if !self.is_silent && self.waiting_since.is_some_and(|since| since + patience(round_trip) <= now) {
            self.is_silent = true;
            self.silence = None;
            return Some(Due::Silent);
        }
        let interval = self.interval()?;
        let late = self.echo.take_if(|echo| echo.end(round_trip) <= now);
        if let Some(Echo { delay, is_disturbed: false, .. }) = late {
            self.is_echo_missing = true;
            return Some(self.ping(delay, now));
        }
        if self.echo.is_none() && self.wants_echo(interval) {
            self.echo = Some(Echo { delay: interval, asked: now, is_sent: false, is_disturbed: false });
            self.last_activity = now;
            return Some(Due::Echo(interval));
        }
        let waits = self.echo.as_ref().is_some_and(|echo| !echo.is_disturbed);
        if !waits && self.last_activity + interval <= now {
            return Some(self.ping(now.saturating_duration_since(self.last_activity), now));
        }
        None
    }

    fn ping(&mut self, silence: Duration, now: Instant) -> Due {
        self.silence = Some(silence);
        // Until the ping is on its way.
        self.last_activity = now;
        self.pings += 1;
        Due::Ping
    }

    /// The keepalive interval in whole milliseconds, as an echo has it. Without echoes nothing proves that a longer silence than that which
    /// every NAT has to keep a binding for does no harm.
    fn interval(&self) -> Option<Duration> {
        let most = if self.has_echo { Duration::MAX } else { UNPROVEN };
        self.keepalive.map(|interval| {
            let interval = interval.min(most);
            interval - Duration::from_nanos(u64::from(interval.subsec_nanos() % 1_000_000))
        })
    }

    fn wants_echo(&self, interval: Duration) -> bool {
        self.has_echo && (interval > self.proven || self.pings >= PINGS_PER_ECHO)
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
        let frames = |sent, received| Frames { sent, received, ..Frames::default() };
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
            liveness.observe(Frames { sent: 1, ..Frames::default() }, now);
            assert_eq!(
                liveness.observe(Frames { sent: 1, received: 1, challenges, ..Frames::default() }, now + RTT),
                Some(expected)
            );
            assert_eq!(
                liveness.observe(Frames { sent: 1, received: 2, challenges, ..Frames::default() }, now + RTT),
                None
            );
        }
    }
}
