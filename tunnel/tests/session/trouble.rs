//! Whatever happens to the path, the session keeps its promises.

use std::{collections::HashMap, time::Duration};

use m2m_tunnel::{capsule::AssignedAddress, session::Event};
use proptest::prelude::*;

use crate::world::{Path, Side, World};

const SECOND: Duration = Duration::from_secs(1);

/// Something that happens. A client that moves is not among it: with packets in flight, quinn-proto 0.11.19 fails an assertion of
/// its debug builds at the server (`pto_time_and_space`).
#[derive(Debug, Clone)]
enum Step {
    Packets(Side, u8, u16),
    Assign(Side),
    GoAway(Side),
    Become(Side, Path),
    Dead(u64),
    Garbage(Side, Vec<u8>),
    Replayed(usize),
    Wait(u64),
}

fn side() -> impl Strategy<Value = Side> {
    prop_oneof![Just(Side::Client), Just(Side::Server)]
}

fn path() -> impl Strategy<Value = Path> {
    (1u64..2000, 0u64..200, 0.0..0.3, 0.0..0.3, 1350usize..1500).prop_map(|(latency, jitter, loss, duplicates, mtu)| {
        let [latency, jitter] = [latency, jitter].map(Duration::from_millis);
        Path { latency, jitter, loss, duplicates, mtu, ..Path::GOOD }
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (side(), 1u8..30, 8u16..1280).prop_map(|(side, count, size)| Step::Packets(side, count, size)),
        2 => side().prop_map(Step::Assign),
        1 => side().prop_map(Step::GoAway),
        2 => (side(), path()).prop_map(|(side, path)| Step::Become(side, path)),
        1 => (1u64..60).prop_map(Step::Dead),
        1 => (side(), proptest::collection::vec(any::<u8>(), 0..200)).prop_map(|(side, bytes)| Step::Garbage(side, bytes)),
        1 => (0usize..32).prop_map(Step::Replayed),
        3 => (1u64..3000).prop_map(Step::Wait),
    ]
}

/// What must be true.
#[derive(Default)]
struct Model {
    numbers: u64,
    /// Packets under way or lost, by side of the sender.
    packets: HashMap<(Side, u64), Vec<u8>>,
    assigned: [Vec<Event>; 2],
    seen: [usize; 2],
    /// What was told last.
    is_silent: [bool; 2],
    size: [Option<usize>; 2],
}

impl Model {
    fn send(&mut self, world: &mut World, from: Side, size: usize) -> u64 {
        self.numbers += 1;
        let mut packet = vec![self.numbers as u8; size];
        packet[..8].copy_from_slice(&self.numbers.to_be_bytes());
        world.send(from, &packet);
        self.packets.insert((from, self.numbers), packet);
        self.numbers
    }

    fn assign(&mut self, world: &mut World, from: Side) {
        self.numbers += 1;
        let [.., a, b] = self.numbers.to_be_bytes();
        let assigned = vec![AssignedAddress::unrequested(format!("10.99.{a}.{b}/32").parse().unwrap())];
        world.end(from).session().assign_addresses(assigned.clone());
        self.assigned[from.other() as usize].push(Event::AddressesAssigned(assigned));
    }

    /// Takes what came, and compares.
    fn check(&mut self, world: &mut World) {
        for side in [Side::Client, Side::Server] {
            let end = world.end(side);
            for packet in std::mem::take(&mut end.packets) {
                let number = u64::from_be_bytes(*packet.first_chunk().unwrap());
                let sent = self.packets.remove(&(side.other(), number));
                assert_eq!(sent.as_deref(), Some(&packet[..]), "sent, unmodified, once");
            }
            for event in std::mem::take(&mut end.events) {
                match event {
                    Event::AddressesAssigned(_) => {
                        let index = self.seen[side as usize];
                        assert_eq!(self.assigned[side as usize].get(index), Some(&event), "in order");
                        self.seen[side as usize] += 1;
                    }
                    Event::Silent(_) => self.is_silent[side as usize] = true,
                    Event::Answers => self.is_silent[side as usize] = false,
                    Event::PacketSize(size) => self.size[side as usize] = Some(size),
                    Event::Closed(reason) => panic!("{side:?} closed: {reason}"),
                    _ => {}
                }
            }
            assert!(world.end(side).is_open());
            assert_eq!(self.size[side as usize], Some(world.end(side).session().max_packet_size()), "as told");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn promises_are_kept(seed: u64, steps in proptest::collection::vec(step(), 1..20)) {
        let (mut world, mut model) = (World::open(seed), Model::default());
        let mut outage = 0;
        for step in steps {
            match step {
                Step::Packets(side, count, size) => {
                    let size = usize::from(size).min(world.end(side).session().max_packet_size());
                    for _ in 0..count {
                        model.send(&mut world, side, size);
                    }
                }
                Step::Assign(side) => model.assign(&mut world, side),
                Step::GoAway(side) => world.end(side).session().go_away(),
                Step::Become(Side::Client, path) => world.up = path,
                Step::Become(Side::Server, path) => world.down = path,
                Step::Dead(seconds) => {
                    outage += seconds;
                    (world.up.is_dead, world.down.is_dead) = (true, true);
                    for _ in 0..seconds {
                        for side in [Side::Client, Side::Server] {
                            model.send(&mut world, side, 100);
                        }
                        world.run(SECOND);
                        model.check(&mut world);
                    }
                    (world.up.is_dead, world.down.is_dead) = (false, false);
                }
                Step::Garbage(side, bytes) => world.inject(side, &bytes),
                Step::Replayed(index) => {
                    if let Some((to, datagram)) = world.recent.get(index).cloned() {
                        world.inject(to, &datagram);
                    }
                }
                Step::Wait(milliseconds) => {
                    let (ticks, sent) = (world.ticks, world.client.sent + world.server.sent);
                    world.run(Duration::from_millis(milliseconds));
                    let sent = world.client.sent + world.server.sent - sent;
                    prop_assert!(world.ticks - ticks < 100 + milliseconds / 10 + 4 * sent, "a busy loop");
                }
            }
            model.check(&mut world);
        }
        (world.up, world.down) = (Path::GOOD, Path::GOOD);
        let start = world.now;
        let mut last = [0, 0];
        // QUIC doubles the time between its probes, and sends nothing else while its window is full.
        let bound = Duration::from_secs(60 + 2 * outage);
        while world.now < start + bound {
            last = [Side::Client, Side::Server].map(|side| model.send(&mut world, side, 100));
            world.run(SECOND);
            model.check(&mut world);
        }
        for (from, number) in [(Side::Client, last[0]), (Side::Server, last[1])] {
            prop_assert!(!model.packets.contains_key(&(from, number)), "packets flow again");
        }
        prop_assert_eq!(model.is_silent, [false; 2], "answers are told");
        for side in [Side::Client, Side::Server] {
            prop_assert_eq!(model.seen[side as usize], model.assigned[side as usize].len(), "all control messages");
            prop_assert!(world.end(side).session().max_packet_size() >= 1280);
        }
    }
}
