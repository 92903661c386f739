//! What is told when nothing comes, and what it costs to keep a quiet tunnel.

use std::{net::SocketAddr, time::Duration};

use m2m_tunnel::session::Event;

use crate::world::{Path, Side, World};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(110);

/// A tunnel that has nothing more to do of its own, and whose client keeps it alive.
fn kept(seed: u64) -> World {
    let mut world = World::open(seed);
    // What QUIC has to do in the beginning: finding the path's MTU.
    world.run(60 * SECOND);
    world.client.session().set_keepalive(Some(KEEPALIVE));
    let kept = Event::BindingKept(KEEPALIVE);
    world.run_until(3 * KEEPALIVE, |world| world.client.events.contains(&kept));
    // Its acknowledgement.
    world.run(SECOND);
    world.client.events.clear();
    world.server.events.clear();
    world
}

#[test]
fn silence_is_told_soon_and_so_is_the_answer() {
    for (latency, patience) in [(10 * MS, 300 * MS), (250 * MS, 1600 * MS)] {
        let good = Path { latency, ..Path::GOOD };
        let dead = Path { is_dead: true, ..good };
        let mut world = World::open(1);
        (world.up, world.down) = (good, good);
        // The round trip time is smoothed.
        for _ in 0..60 {
            world.send(Side::Client, b"packet");
            world.run(SECOND);
        }
        world.client.events.clear();
        (world.up, world.down) = (dead, dead);
        world.send(Side::Client, b"packet");
        let took = world.run_until(10 * SECOND, |world| world.client.events.iter().any(is_silent));
        assert!((patience - 5 * MS..patience + 50 * MS).contains(&took), "{took:?} for {patience:?}");
        world.run(5 * SECOND);
        assert_eq!(world.client.events.iter().filter(|event| is_silent(event)).count(), 1, "told once");
        (world.up, world.down) = (good, good);
        world.client.session().ping();
        let took = world.run_until(10 * SECOND, |world| world.client.events.contains(&Event::Answers));
        assert!(took <= 2 * latency + 50 * MS, "{took:?}");
    }
}

fn is_silent(event: &Event) -> bool {
    matches!(event, Event::Silent(_))
}

#[test]
fn a_ping_tells_that_all_is_well() {
    let mut world = kept(1);
    world.client.session().ping();
    let took = world.run_until(SECOND, |world| world.client.events.contains(&Event::Answers));
    assert!(took <= 50 * MS, "{took:?}");
}

/// Two UDP datagrams each interval, and no more.
#[test]
fn a_quiet_hour_costs_little() {
    let mut world = kept(1);
    let hour = 3600 * SECOND;
    let before = [world.client.sent, world.server.sent, world.client.sent_bytes, world.server.sent_bytes];
    let ticks = world.ticks;
    world.run(hour);
    let after = [world.client.sent, world.server.sent, world.client.sent_bytes, world.server.sent_bytes];
    let [pings, answers, up, down] = std::array::from_fn(|index| after[index] - before[index]);
    let headers = (pings + answers) * 28;
    println!(
        "{pings} pings and {answers} answers an hour, {} kB a day with headers, {} wake-ups an hour",
        24 * (up + down + headers) / 1000,
        world.ticks - ticks
    );
    let intervals = hour.as_secs() / KEEPALIVE.as_secs();
    assert!((intervals - 1..=intervals + 2).contains(&pings), "{pings} pings");
    assert!(answers <= pings + 2, "{answers} answers");
    assert!(24 * (up + down + headers) < 200_000, "bytes a day");
    assert!(world.ticks - ticks < 12 * pings, "wake-ups");
    let kept = world.client.events.iter().filter(|event| matches!(event, Event::BindingKept(_))).count() as u64;
    assert!(kept + 3 >= pings, "{kept} of {pings}");
    assert!(world.client.is_open() && world.server.is_open());
}

/// Many NATs give a forgotten binding's port again: the peer sees no change, and still nothing of what it sent had arrived.
#[test]
fn a_binding_that_comes_back_with_the_same_port_is_known_to_be_lost() {
    let mut world = World::open(1);
    world.run(60 * SECOND);
    world.nat = Some(120 * SECOND);
    let told = |event: &Event| matches!(event, Event::BindingKept(_) | Event::BindingLost(_));
    for (seconds, survives) in [(60, true), (110, true), (165, false), (110, true), (137, false), (115, true)] {
        let silence = Duration::from_secs(seconds);
        world.client.session().set_keepalive(Some(silence));
        let took = world.run_until(4 * silence, |world| world.client.events.iter().any(told));
        let event = world.client.take(told).unwrap();
        let expected = if survives { Event::BindingKept(silence) } else { Event::BindingLost(silence) };
        assert_eq!(event, expected);
        assert!(took <= silence + 5 * SECOND, "{took:?} for {silence:?}");
        // As roaming does, before anything else is due.
        world.client.events.clear();
    }
    assert!(world.client.is_open() && world.server.is_open());
}

#[test]
fn traffic_puts_the_echo_off_and_nothing_wrong_is_learned() {
    let mut world = World::open(1);
    world.nat = Some(120 * SECOND);
    world.client.session().set_keepalive(Some(200 * SECOND));
    for _ in 0..20 {
        world.send(Side::Client, b"packet");
        world.run(50 * SECOND);
    }
    let told = |event: &Event| matches!(event, Event::BindingKept(_) | Event::BindingLost(_));
    assert_eq!(world.client.take(told), None, "there was never a silence of that length");
    world.run_until(900 * SECOND, |world| world.client.events.iter().any(told));
    assert_eq!(world.client.take(told), Some(Event::BindingLost(200 * SECOND)));
}

#[test]
fn without_keepalive_nothing_is_sent() {
    let mut world = kept(1);
    world.client.session().set_keepalive(None);
    let before = world.client.sent + world.server.sent;
    world.run(600 * SECOND);
    assert_eq!(world.client.sent + world.server.sent, before);
}

#[test]
fn a_binding_that_is_lost_in_silence_is_told() {
    let mut world = kept(1);
    let told = |event: &Event| matches!(event, Event::BindingKept(_) | Event::BindingLost(_));
    for port in [50_001, 50_002] {
        let address = SocketAddr::new(world.client.address.ip(), port);
        world.client.address = address;
        world.run_until(2 * KEEPALIVE, |world| world.client.events.iter().any(told));
        let event = world.client.take(told);
        assert!(matches!(event, Some(Event::BindingLost(silence)) if silence == KEEPALIVE), "{event:?}");
        world.run(SECOND);
        assert_eq!(world.server.session().remote(), address);
        world.run_until(2 * KEEPALIVE, |world| world.client.events.iter().any(told));
        let event = world.client.take(told);
        assert!(matches!(event, Some(Event::BindingKept(_))), "{event:?}");
        world.run(SECOND);
    }
}
