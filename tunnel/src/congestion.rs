//! Congestion control that keeps the queues of the path short: CUBIC ([RFC 9438]) where packets are lost, and a window as large as the
//! path itself where they only wait.
//!
//! CUBIC alone fills whatever buffer stands before the slowest link, and a modem has one for a second of its uplink. Here the round trip
//! is watched: its smallest value of the last seconds is the path itself, and what exceeds it for longer than a burst lasts is a
//! queue, as CoDel defines it ([RFC 8289]), only seen from the sender. Such a queue is taken out of the window: what is left is what the
//! path holds. What stays although this side gives way is no queue of its own: others fill it, or the path has become longer. Then giving
//! way would only leave the link to others, and the round trip counts as the path's from then on.
//!
//! [RFC 8289]: https://www.rfc-editor.org/rfc/rfc8289
//! [RFC 9438]: https://www.rfc-editor.org/rfc/rfc9438

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use quinn_proto::{
    Connection, RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics},
};

/// A queue that is no longer than this does no harm.
const TARGET: Duration = Duration::from_millis(8);

/// On a long path, some of its length is no harm either.
const TARGET_SHARE: u32 = 4;

/// And no queue that is longer than this is good.
const MAX_TARGET: Duration = Duration::from_millis(20);

/// How long a queue stands before it is more than a burst.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long the smallest round trip counts as the path's.
const BASE_WINDOW: Duration = Duration::from_secs(10);

/// Giving way so many times without any effect shows that the queue is others', or that the path has become longer.
const IN_VAIN: u32 = 2;

/// The round trip fell by this share at least: giving way had an effect.
const EFFECT: u32 = 16;

/// Packets of the first window (RFC 9002 §7.2), and of the smallest.
const INITIAL_PACKETS: u64 = 10;
const LEAST_PACKETS: u64 = 2;

/// What is left of the window after a loss (RFC 9438 §4.6), and the scale of its growth in packets (§5.1).
const BETA: f64 = 0.7;
const SCALE: f64 = 0.4;

/// A window grows by at most this share of it in a round trip, once it has been found: where it holds few packets, one more of them is
/// a queue already.
const MOST_GROWTH: u64 = 16;

/// Makes controllers.
#[derive(Debug, Clone, Default)]
pub struct ShortQueueConfig(());

impl ControllerFactory for ShortQueueConfig {
    fn build(self: Arc<Self>, _: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(ShortQueue::new(current_mtu.into()))
    }
}

/// Lets out the last packet of a connection that is closed. `quinn-proto` holds CONNECTION_CLOSE back as long as data waits for room in
/// the window, and then forgets the connection: its peer would never hear why it ended.
pub(crate) fn let_out(connection: &Connection) {
    let controller = connection.congestion_state().clone_box().into_any();
    if let Ok(controller) = controller.downcast::<ShortQueue>() {
        controller.is_over.store(true, Ordering::Relaxed);
    }
}

#[derive(Debug, Clone)]
struct ShortQueue {
    /// Nothing counts any more. Shared by all clones.
    is_over: Arc<AtomicBool>,
    packet: u64,
    window: u64,
    /// Below it the window doubles each round trip.
    threshold: u64,
    /// Nothing that was sent before tells anything new.
    recovery_since: Option<Instant>,
    growth: Option<Growth>,
    /// There is some queue: enough for the path to be full.
    is_full: bool,
    watch: QueueWatch,
    /// The shortest round trip of the packets that are just being acknowledged.
    sample: Option<Duration>,
}

/// Where CUBIC is on its curve (RFC 9438 §4.2).
#[derive(Debug, Clone, Copy)]
struct Growth {
    since: Instant,
    /// In packets.
    plateau: f64,
    /// Seconds until the plateau.
    way: f64,
}

impl ShortQueue {
    fn new(packet: u64) -> Self {
        Self {
            is_over: Arc::default(),
            packet,
            window: INITIAL_PACKETS * packet,
            threshold: u64::MAX,
            recovery_since: None,
            growth: None,
            is_full: false,
            watch: QueueWatch::default(),
            sample: None,
        }
    }

    fn least(&self) -> u64 {
        LEAST_PACKETS * self.packet
    }

    /// Begins again with this window, towards a plateau.
    fn settle(&mut self, window: u64, plateau: u64, now: Instant) {
        self.window = window.max(self.least());
        self.threshold = self.window;
        let [window, plateau] = [self.window, plateau.max(self.window)].map(|bytes| bytes as f64 / self.packet as f64);
        self.growth = Some(Growth { since: now, plateau, way: ((plateau - window) / SCALE).cbrt() });
    }

    /// The bytes by which acknowledged bytes widen a window that was found.
    fn growth(&mut self, bytes: u64, now: Instant, rtt: &RttEstimator) -> u64 {
        let window = self.window as f64 / self.packet as f64;
        let growth = *self.growth.get_or_insert(Growth { since: now, plateau: window, way: 0.0 });
        let time = (now.saturating_duration_since(growth.since) + rtt.get()).as_secs_f64();
        let wanted = growth.plateau + SCALE * (time - growth.way).powi(3);
        // As fast as Reno at least (RFC 9438 §4.3), in packets a round trip.
        let packets = (wanted - window).max(0.5);
        let most = (self.window / MOST_GROWTH).max(1);
        let a_round_trip = ((packets * self.packet as f64) as u64).min(most);
        bytes * a_round_trip / self.window.max(1)
    }
}

impl Controller for ShortQueue {
    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        let round_trip = now.saturating_duration_since(sent);
        // The peer holds acknowledgements back; the packet that waited least tells most.
        self.sample = Some(self.sample.map_or(round_trip, |shortest| shortest.min(round_trip)));
        if app_limited || self.recovery_since.is_some_and(|since| sent <= since) {
            return;
        }
        if self.window < self.threshold {
            self.window += bytes;
            return;
        }
        if !self.is_full {
            self.window += self.growth(bytes, now, rtt);
        }
    }

    fn on_end_acks(&mut self, now: Instant, _in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        let Some(round_trip) = self.sample.take() else { return };
        let seen = self.watch.look(round_trip, self.window > self.least(), now);
        self.is_full = matches!(seen, Seen::Burst | Seen::Begin | Seen::Stands { .. });
        match seen {
            Seen::Nothing | Seen::Burst => {}
            // The path is full: no more doubling.
            Seen::Begin => self.threshold = self.threshold.min(self.window),
            Seen::InVain => self.threshold = u64::MAX,
            Seen::Stands { base } => {
                let share = base.as_secs_f64() / round_trip.as_secs_f64().max(f64::MIN_POSITIVE);
                let window = (self.window as f64 * share.clamp(0.5, 1.0)) as u64;
                self.recovery_since = Some(now);
                self.settle(window, window, now);
            }
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, _lost_bytes: u64) {
        if self.recovery_since.is_some_and(|since| sent <= since) {
            return;
        }
        self.recovery_since = Some(now);
        let plateau = self.window;
        self.settle((plateau as f64 * BETA) as u64, plateau, now);
        if is_persistent_congestion {
            self.window = self.least();
            self.recovery_since = None;
            // Whatever was known of the path may be of another one.
            self.watch = QueueWatch::default();
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.packet = new_mtu.into();
        self.window = self.window.max(self.least());
    }

    fn window(&self) -> u64 {
        if self.is_over.load(Ordering::Relaxed) { u64::MAX } else { self.window }
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = ControllerMetrics::default();
        metrics.congestion_window = self.window;
        metrics.ssthresh = Some(self.threshold);
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        INITIAL_PACKETS * self.packet
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// What a round trip shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// No queue.
    Nothing,
    /// A queue, or a burst.
    Burst,
    /// The path is full.
    Begin,
    /// What stays although this side gave way: it is the path from now on, and its rate has to be found again.
    InVain,
    /// A queue of this side's own making stands on a path with this round trip.
    Stands { base: Duration },
}

/// Sees queues in round trips.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueueWatch {
    /// The smallest round trip of this window, and of the one before.
    base: Option<(Duration, Instant)>,
    former: Option<Duration>,
    full_since: Option<Instant>,
    above_since: Option<Instant>,
    /// The round trip when this side gave way the last time.
    gave_way_at: Option<Duration>,
    in_vain: u32,
}

impl QueueWatch {
    /// What this round trip shows. A side whose window is the smallest has nothing left to give: then it cannot be in vain either.
    pub(crate) fn look(&mut self, round_trip: Duration, can_give_way: bool, now: Instant) -> Seen {
        let base = self.base(round_trip, now);
        let target = TARGET.max(base / TARGET_SHARE).min(MAX_TARGET);
        if round_trip <= base + target {
            self.above_since = None;
            self.gave_way_at = None;
            self.in_vain = 0;
        }
        if round_trip <= base + target / 2 {
            self.full_since = None;
            return Seen::Nothing;
        }
        // A burst of this side's own waits for itself. What is seen for a whole round trip is more than that.
        let full_since = *self.full_since.get_or_insert(now);
        let is_full = now.saturating_duration_since(full_since) >= round_trip;
        let seen = if is_full { Seen::Begin } else { Seen::Burst };
        if round_trip <= base + target {
            return seen;
        }
        let since = *self.above_since.get_or_insert(now);
        // Before a queue is full, round trips grow as fast as time passes: the first time they are not waited for.
        let patience = INTERVAL.max(if self.gave_way_at.is_some() { round_trip } else { base });
        if !can_give_way || now.saturating_duration_since(since) < patience {
            return seen;
        }
        // The effect shows in the next interval.
        self.above_since = Some(now);
        let had_effect = self.gave_way_at.is_some_and(|before| round_trip < before - before / EFFECT);
        self.gave_way_at = Some(round_trip);
        self.in_vain = if had_effect { 1 } else { self.in_vain + 1 };
        if self.in_vain >= IN_VAIN {
            *self = Self { base: Some((round_trip, now)), ..Self::default() };
            return Seen::InVain;
        }
        Seen::Stands { base }
    }

    /// What this side gave way has not arrived yet: round trips may still grow, and the effect shows from now on only.
    pub(crate) fn restart(&mut self, round_trip: Duration, now: Instant) {
        self.above_since = self.above_since.map(|_| now);
        self.gave_way_at = self.gave_way_at.map(|before| before.max(round_trip));
    }

    fn base(&mut self, round_trip: Duration, now: Instant) -> Duration {
        let (smallest, since) = match self.base {
            Some((smallest, since)) if now.saturating_duration_since(since) < BASE_WINDOW => {
                (smallest.min(round_trip), since)
            }
            ended => {
                self.former = ended.map(|(smallest, _)| smallest);
                (round_trip, now)
            }
        };
        self.base = Some((smallest, since));
        self.former.map_or(smallest, |former| former.min(smallest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Feeds a round trip every 10 ms for a time; how often the watch said that a queue stands.
    fn feed(watch: &mut QueueWatch, now: &mut Instant, round_trip: Duration, time: Duration) -> u32 {
        let mut signals = 0;
        for _ in 0..(time.as_millis() / 10) {
            *now += 10 * MS;
            signals += u32::from(matches!(watch.look(round_trip, true, *now), Seen::Stands { .. }));
        }
        signals
    }

    #[test]
    fn a_path_without_a_queue_is_left_alone() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        assert_eq!(feed(&mut watch, &mut now, 20 * MS, Duration::from_secs(60)), 0);
        assert_eq!(feed(&mut watch, &mut now, 27 * MS, Duration::from_secs(5)), 0, "within the target");
    }

    #[test]
    fn a_burst_is_no_queue() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        for _ in 0..50 {
            assert_eq!(feed(&mut watch, &mut now, 20 * MS, 50 * MS), 0);
            assert_eq!(feed(&mut watch, &mut now, 90 * MS, 50 * MS), 0);
        }
    }

    #[test]
    fn a_standing_queue_is_told_when_it_has_stood() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, 20 * MS, 1000 * MS);
        assert_eq!(feed(&mut watch, &mut now, 60 * MS, 90 * MS), 0);
        assert_eq!(feed(&mut watch, &mut now, 60 * MS, 50 * MS), 1);
        // It goes when this side gives way, and comes again.
        assert_eq!(feed(&mut watch, &mut now, 25 * MS, 1000 * MS), 0);
        assert_eq!(feed(&mut watch, &mut now, 60 * MS, 150 * MS), 1);
    }

    #[test]
    fn what_stays_is_not_fought() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, 20 * MS, 1000 * MS);
        assert_eq!(feed(&mut watch, &mut now, 60 * MS, Duration::from_secs(60)), IN_VAIN - 1);
        assert!(feed(&mut watch, &mut now, 90 * MS, 300 * MS) >= 1, "what comes on top of it is");
    }

    #[test]
    fn the_smallest_window_is_no_reason_to_take_a_queue_for_the_path() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, MS, 1000 * MS);
        for _ in 0..500 {
            now += 10 * MS;
            assert!(matches!(watch.look(16 * MS, false, now), Seen::Burst | Seen::Begin));
        }
        assert_eq!(watch.look(16 * MS, false, now + MS), Seen::Begin);
    }

    #[test]
    fn what_falls_when_this_side_gives_way_is_its_own() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, MS, 1000 * MS);
        let mut queue = 90;
        for _ in 0..4 {
            assert_eq!(feed(&mut watch, &mut now, queue * MS, 120 * MS), 1, "{queue} ms");
            queue = queue * 2 / 3;
        }
    }

    #[test]
    fn a_longer_path_is_taken_for_one_after_a_while() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, 20 * MS, 1000 * MS);
        feed(&mut watch, &mut now, 70 * MS, 3 * BASE_WINDOW);
        assert_eq!(feed(&mut watch, &mut now, 70 * MS, BASE_WINDOW), 0);
    }
}
