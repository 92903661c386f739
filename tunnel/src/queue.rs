//! The queue in front of a link: FlowQueue-CoDel ([RFC 8290], [RFC 8289]) with a bound in bytes.
//!
//! A link that is slower than its users keeps packets waiting here, and nowhere else: every flow has a queue of its own, flows that
//! send little go first, and a flow that keeps its queue standing is told so, by a mark (ECN, RFC 3168) where it understands
//! marks, by a lost packet where it does not.
//!
//! [RFC 8289]: https://www.rfc-editor.org/rfc/rfc8289
//! [RFC 8290]: https://www.rfc-editor.org/rfc/rfc8290

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use crate::packet;

/// Flows that share a queue by chance are few: RFC 8290 §4.1.1 counts on 1024 queues for thousands of flows, a device has tens.
const QUEUES: usize = 64;

/// Bytes that a flow may send before the next one's turn (RFC 8290 §4.1.3): one packet.
const QUANTUM: i32 = 1514;

/// The delay of a queue that stands, and is not just a burst (RFC 8289 §4.2).
const TARGET: Duration = Duration::from_millis(5);

/// How long it has to stand (RFC 8289 §4.3): some round trip of the internet.
const INTERVAL: Duration = Duration::from_millis(100);

/// IP packets that wait for a link. Each may have a prefix that is not part of it.
#[derive(Debug)]
pub struct Queue {
    flows: Vec<Flow>,
    /// Flows that had nothing to send until now, then those that always have.
    new: VecDeque<usize>,
    old: VecDeque<usize>,
    prefix: usize,
    bytes: usize,
    packets: usize,
    limit: usize,
    dropped: u64,
    marked: u64,
}

impl Queue {
    /// Holds at most `limit` bytes of packets, the first `prefix` bytes of each being none of IP.
    #[must_use]
    pub fn new(limit: usize, prefix: usize) -> Self {
        Self {
            flows: (0..QUEUES).map(|_| Flow::default()).collect(),
            new: VecDeque::new(),
            old: VecDeque::new(),
            prefix,
            bytes: 0,
            packets: 0,
            limit,
            dropped: 0,
            marked: 0,
        }
    }

    /// Appends a packet. When the queue is full the longest flow loses its oldest one.
    pub fn push(&mut self, packet: Bytes, now: Instant) {
        let hash = packet::flow_hash(packet.get(self.prefix..).unwrap_or_default());
        let index = hash as usize % QUEUES;
        self.bytes += packet.len();
        self.packets += 1;
        let Some(flow) = self.flows.get_mut(index) else { return };
        flow.bytes += packet.len();
        flow.packets.push_back(Waiting { packet, since: now });
        if !flow.listed {
            flow.listed = true;
            flow.deficit = QUANTUM;
            self.new.push_back(index);
        }
        while self.bytes > self.limit {
            self.drop_from_longest();
        }
    }

    /// The next packet to send.
    pub fn pop(&mut self, now: Instant) -> Option<Bytes> {
        loop {
            let is_new = !self.new.is_empty();
            let list = if is_new { &mut self.new } else { &mut self.old };
            let index = *list.front()?;
            let flow = self.flows.get_mut(index)?;
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                list.pop_front();
                self.old.push_back(index);
                continue;
            }
            let taken = flow.take(now, self.prefix);
            self.bytes -= taken.bytes;
            self.packets -= taken.packets;
            self.dropped += taken.dropped;
            self.marked += u64::from(taken.marked);
            if let Some(packet) = taken.packet {
                flow.deficit -= i32::try_from(packet.len()).unwrap_or(i32::MAX);
                return Some(packet);
            }
            list.pop_front();
            // A flow that comes back at once must not always be a new one (RFC 8290 §4.2).
            if is_new && !self.old.is_empty() {
                self.old.push_back(index);
            } else {
                flow.listed = false;
            }
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.packets == 0
    }

    /// Bytes that wait.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets that were lost here since the beginning, and packets that were marked.
    #[must_use]
    pub fn signals(&self) -> (u64, u64) {
        (self.dropped, self.marked)
    }

    fn drop_from_longest(&mut self) {
        let longest = self.flows.iter_mut().max_by_key(|flow| flow.bytes);
        let Some(dropped) = longest.and_then(Flow::drop_first) else {
            self.bytes = 0;
            return;
        };
        self.bytes -= dropped;
        self.packets -= 1;
        self.dropped += 1;
    }
}

#[derive(Debug, Default)]
struct Flow {
    packets: VecDeque<Waiting>,
    bytes: usize,
    deficit: i32,
    /// Whether it stands in one of the lists.
    listed: bool,
    codel: Codel,
}

#[derive(Debug)]
struct Waiting {
    packet: Bytes,
    since: Instant,
}

/// What [`Flow::take`] took.
#[derive(Debug, Default)]
struct Taken {
    packet: Option<Bytes>,
    bytes: usize,
    packets: usize,
    dropped: u64,
    marked: bool,
}

impl Flow {
    fn take(&mut self, now: Instant, prefix: usize) -> Taken {
        let mut taken = Taken::default();
        while let Some(Waiting { packet, since }) = self.packets.pop_front() {
            self.bytes -= packet.len();
            taken.bytes += packet.len();
            taken.packets += 1;
            let sojourn = now.saturating_duration_since(since);
            if !self.codel.signals(sojourn, self.packets.is_empty(), now) {
                taken.packet = Some(packet);
                return taken;
            }
            if let Some(marked) = mark(&packet, prefix) {
                taken.marked = true;
                taken.packet = Some(marked);
                return taken;
            }
            taken.dropped += 1;
        }
        taken
    }

    fn drop_first(&mut self) -> Option<usize> {
        let bytes = self.packets.pop_front()?.packet.len();
        self.bytes -= bytes;
        Some(bytes)
    }
}

/// The packet with Congestion Experienced in its header, if its flow understands that.
fn mark(packet: &Bytes, prefix: usize) -> Option<Bytes> {
    // Others may hold the memory around it.
    let mut copy = BytesMut::from(&packet[..]);
    packet::ecn::mark(copy.get_mut(prefix..)?).then(|| copy.freeze())
}

/// The control law (RFC 8289 §5).
#[derive(Debug, Default)]
struct Codel {
    above_since: Option<Instant>,
    /// When the next signal is due, while it signals.
    next: Option<Instant>,
    count: u32,
    last_count: u32,
}

impl Codel {
    /// Whether the flow has to be told with the packet that waited for `sojourn` and is its last one.
    fn signals(&mut self, sojourn: Duration, is_last: bool, now: Instant) -> bool {
        let stands = self.stands(sojourn, is_last, now);
        let Some(next) = self.next else {
            if !stands {
                return false;
            }
            // Soon after the last time the old rate was about right.
            let delta = self.count - self.last_count;
            self.count = if delta > 1 { delta } else { 1 };
            self.last_count = self.count;
            self.next = Some(now + self.spacing());
            return true;
        };
        if !stands {
            self.next = None;
            return false;
        }
        if now < next {
            return false;
        }
        self.count = self.count.saturating_add(1);
        self.next = Some(next + self.spacing());
        true
    }

    fn stands(&mut self, sojourn: Duration, is_last: bool, now: Instant) -> bool {
        if sojourn < TARGET || is_last {
            self.above_since = None;
            return false;
        }
        now.saturating_duration_since(*self.above_since.get_or_insert(now)) >= INTERVAL
    }

    fn spacing(&self) -> Duration {
        INTERVAL.div_f64(f64::from(self.count.max(1)).sqrt())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::packet::tests::v4;

    /// A packet of a flow, with a number.
    fn packet(port: u16, size: usize, ecn: u8) -> Bytes {
        let mut packet = v4(&vec![0; size]);
        packet[1] = ecn;
        packet[20..22].copy_from_slice(&port.to_be_bytes());
        [vec![0, 0], packet].concat().into()
    }

    fn port(packet: &Bytes) -> u16 {
        u16::from_be_bytes([packet[22], packet[23]])
    }

    /// Serves `queue` at one packet each `pace` for `time`, with `arrivals` packets of flow 1 a pace; the times that packets of flow 2,
    /// one each 50 paces, waited.
    fn serve(queue: &mut Queue, pace: Duration, rounds: u32, ecn: u8) -> Vec<Duration> {
        let mut now = Instant::now();
        let (mut sent, mut waited) = (None, Vec::new());
        for round in 0..rounds {
            for _ in 0..2 {
                queue.push(packet(1, 1300, ecn), now);
            }
            if round % 50 == 0 {
                queue.push(packet(2, 56, 0), now);
                sent = Some(now);
            }
            now += pace;
            let next = queue.pop(now).unwrap();
            if port(&next) == 2 {
                waited.push(now - sent.take().unwrap());
            }
        }
        waited
    }

    #[test]
    fn a_ping_passes_a_standing_queue() {
        let mut queue = Queue::new(1 << 20, 2);
        let pace = Duration::from_millis(5);
        let waited = serve(&mut queue, pace, 1000, 0);
        assert_eq!(waited.len(), 20);
        // The first one comes when the other flow is new, too.
        assert!(waited.iter().all(|waited| *waited <= 3 * pace), "{waited:?}");
        assert!(queue.bytes() <= 1 << 20);
    }

    #[test]
    fn a_flow_that_understands_marks_is_marked_and_another_loses_packets() {
        let pace = Duration::from_millis(5);
        let mut queue = Queue::new(1 << 24, 2);
        serve(&mut queue, pace, 400, 0);
        let (dropped, marked) = queue.signals();
        assert!(dropped > 5 && marked == 0, "{dropped} dropped, {marked} marked");
        let mut queue = Queue::new(1 << 24, 2);
        serve(&mut queue, pace, 400, 2);
        let (dropped, marked) = queue.signals();
        assert!(marked > 5 && dropped == 0, "{dropped} dropped, {marked} marked");
    }

    #[test]
    fn a_link_that_keeps_up_loses_nothing() {
        let mut queue = Queue::new(1 << 16, 2);
        let mut now = Instant::now();
        for _ in 0..10_000 {
            queue.push(packet(1, 1300, 0), now);
            now += Duration::from_micros(100);
            assert!(queue.pop(now).is_some());
        }
        assert!(queue.is_empty() && queue.bytes() == 0);
        assert_eq!(queue.signals(), (0, 0));
    }

    proptest! {
        /// Whatever comes and goes: order within a flow, the bound, and the books are kept.
        #[test]
        fn the_books_are_kept(steps in proptest::collection::vec((0u16..6, 0usize..1400, 0u64..20_000, any::<bool>()), 1..200)) {
            let mut queue = Queue::new(20_000, 2);
            let mut now = Instant::now();
            let (mut pushed, mut popped) = (0u64, 0u64);
            let mut last = std::collections::HashMap::new();
            for (number, (flow, size, microseconds, push)) in steps.into_iter().enumerate() {
                now += Duration::from_micros(microseconds);
                if push {
                    let mut one = packet(flow, size + 8, 0).to_vec();
                    one[30..34].copy_from_slice(&(number as u32).to_be_bytes());
                    queue.push(one.into(), now);
                    pushed += 1;
                } else if let Some(one) = queue.pop(now) {
                    popped += 1;
                    let number = u32::from_be_bytes(*one[30..].first_chunk().unwrap());
                    let before = last.insert(port(&one), number);
                    prop_assert!(before.is_none_or(|before| before < number));
                }
                prop_assert!(queue.bytes() <= 20_000);
            }
            while queue.pop(now).is_some() {
                popped += 1;
            }
            prop_assert!(queue.is_empty() && queue.bytes() == 0);
            prop_assert_eq!(pushed, popped + queue.signals().0);
        }
    }
}
