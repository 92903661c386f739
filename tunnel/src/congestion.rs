//! Congestion control that keeps the queues of the path short: CUBIC ([RFC 9438]), told of a queue as it is told of a loss.
//!
//! CUBIC alone fills whatever buffer stands before the slowest link, and a modem has one for a second of its uplink. Here the round trip
//! is watched: its smallest value of the last seconds is the path itself, and what exceeds it for longer than a burst lasts is a
//! queue, as CoDel defines it ([RFC 8289]), only seen from the sender. A queue that stays although this side gives way is
//! not its own, but that of others who fill it; then giving way would only leave them the link, and losses alone decide for a while.
//!
//! [RFC 8289]: https://www.rfc-editor.org/rfc/rfc8289
//! [RFC 9438]: https://www.rfc-editor.org/rfc/rfc9438

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use quinn_proto::{
    RttEstimator,
    congestion::{Controller, ControllerFactory, ControllerMetrics, CubicConfig},
};

/// A queue that is no longer than this does no harm.
const TARGET: Duration = Duration::from_millis(10);

/// On a long path, some of its length is no harm either: CUBIC needs room to find the rate.
const TARGET_SHARE: u32 = 4;

/// And no queue that is longer than this is good.
const MAX_TARGET: Duration = Duration::from_millis(20);

/// How long a queue stands before it is more than a burst.
const INTERVAL: Duration = Duration::from_millis(100);

/// How long the smallest round trip counts as the path's.
const BASE_WINDOW: Duration = Duration::from_secs(10);

/// Giving way so many times without any effect shows that the queue is others'.
const IN_VAIN: u32 = 8;

/// How long it counts as theirs.
const LEFT_TO_OTHERS: Duration = Duration::from_secs(10);

/// Makes controllers.
#[derive(Debug, Clone, Default)]
pub struct ShortQueueConfig {
    cubic: Arc<CubicConfig>,
}

impl ControllerFactory for ShortQueueConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        let cubic = Arc::clone(&self.cubic).build(now, current_mtu);
        Box::new(ShortQueue { cubic, watch: QueueWatch::default(), sample: None })
    }
}

struct ShortQueue {
    cubic: Box<dyn Controller>,
    watch: QueueWatch,
    /// The shortest round trip of the packets that are just being acknowledged, and when its packet was sent.
    sample: Option<(Duration, Instant)>,
}

impl Controller for ShortQueue {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, app_limited: bool, rtt: &RttEstimator) {
        self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        let round_trip = now.saturating_duration_since(sent);
        // The peer holds acknowledgements back; the packet that it waited least for tells most.
        if self.sample.is_none_or(|(shortest, _)| round_trip < shortest) {
            self.sample = Some((round_trip, sent));
        }
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, largest_packet_num_acked: Option<u64>) {
        self.cubic.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
        let Some((round_trip, sent)) = self.sample.take() else { return };
        if self.watch.stands(round_trip, now) {
            self.cubic.on_congestion_event(now, sent, false, 0);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.cubic.on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window()
    }

    fn metrics(&self) -> ControllerMetrics {
        self.cubic.metrics()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self { cubic: self.cubic.clone_box(), watch: self.watch.clone(), sample: self.sample })
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Sees queues in round trips.
#[derive(Debug, Clone, Default)]
struct QueueWatch {
    /// The smallest round trip of this window, and of the one before.
    base: Option<(Duration, Instant)>,
    former: Option<Duration>,
    above_since: Option<Instant>,
    in_vain: u32,
    left_until: Option<Instant>,
}

impl QueueWatch {
    /// Takes a round trip; whether a queue of this side's own making stands.
    fn stands(&mut self, round_trip: Duration, now: Instant) -> bool {
        let base = self.base(round_trip, now);
        let target = TARGET.max(base / TARGET_SHARE).min(MAX_TARGET);
        if round_trip <= base + target {
            self.above_since = None;
            self.in_vain = 0;
            return false;
        }
        if self.left_until.is_some_and(|until| now < until) {
            return false;
        }
        let since = *self.above_since.get_or_insert(now);
        if now.saturating_duration_since(since) < INTERVAL.max(round_trip) {
            return false;
        }
        // The effect shows in the next interval.
        self.above_since = Some(now);
        self.in_vain += 1;
        if self.in_vain >= IN_VAIN {
            self.in_vain = 0;
            self.left_until = Some(now + LEFT_TO_OTHERS);
            return false;
        }
        true
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
            signals += u32::from(watch.stands(round_trip, *now));
        }
        signals
    }

    #[test]
    fn a_path_without_a_queue_is_left_alone() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        assert_eq!(feed(&mut watch, &mut now, 20 * MS, Duration::from_secs(60)), 0);
        assert_eq!(feed(&mut watch, &mut now, 29 * MS, Duration::from_secs(5)), 0, "within the target");
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
    fn a_standing_queue_is_told_once_an_interval() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, 20 * MS, 1000 * MS);
        let told = feed(&mut watch, &mut now, 60 * MS, 600 * MS);
        assert!((4..=6).contains(&told), "{told}");
        assert_eq!(feed(&mut watch, &mut now, 25 * MS, 1000 * MS), 0);
    }

    #[test]
    fn a_queue_of_others_is_left_to_them_for_a_while() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, 20 * MS, 1000 * MS);
        assert_eq!(feed(&mut watch, &mut now, 60 * MS, Duration::from_secs(9)), IN_VAIN - 1);
    }

    #[test]
    fn a_longer_path_is_taken_for_one_after_a_while() {
        let (mut watch, mut now) = (QueueWatch::default(), Instant::now());
        feed(&mut watch, &mut now, 20 * MS, 1000 * MS);
        feed(&mut watch, &mut now, 70 * MS, 3 * BASE_WINDOW);
        assert_eq!(feed(&mut watch, &mut now, 70 * MS, BASE_WINDOW), 0);
    }
}
