//! A link that is slower than its users: who waits there, and how much of it is used.

use std::time::Duration;

use crate::world::{Bottleneck, Path, Side, World};

const MS: Duration = Duration::from_millis(1);

/// What was seen after the first seconds.
struct Seen {
    /// Bytes of inner packets for each byte that the link carries.
    share: f64,
    /// The longest that a ping took from end to end.
    slowest: Duration,
    lost: usize,
}

/// Bytes of an inner packet of the upload.
const PACKET: usize = 1280;
/// Between pings.
const PING: Duration = Duration::from_millis(50);
/// Not counted.
const BEGINNING: Duration = Duration::from_secs(3);

#[test]
fn an_upload_leaves_a_thin_link_to_others() {
    let link = Bottleneck { rate: 2_000_000, buffer: 400 * MS };
    let seen = upload(Path { bottleneck: Some(link), ..Path::GOOD }, Duration::from_secs(25));
    println!("2 Mbit/s: {:.1} % used, slowest ping {:?}, {} lost", seen.share * 100.0, seen.slowest, seen.lost);
    assert!(seen.share >= 0.85, "{}", seen.share);
    assert!(seen.slowest <= Path::GOOD.latency + 30 * MS, "{:?}", seen.slowest);
    assert_eq!(seen.lost, 0);
}

#[test]
fn an_upload_leaves_a_thin_and_short_link_to_others() {
    for buffer in [100 * MS, 1000 * MS] {
        let link = Bottleneck { rate: 2_000_000, buffer };
        let path = Path { latency: MS / 10, bottleneck: Some(link), ..Path::GOOD };
        let seen = upload(path, Duration::from_secs(40));
        println!(
            "2 Mbit/s, next door, {buffer:?}: {:.1} % used, slowest ping {:?}, {} lost",
            seen.share * 100.0,
            seen.slowest,
            seen.lost
        );
        assert!(seen.share >= 0.85, "{}", seen.share);
        assert!(seen.slowest <= path.latency + 30 * MS, "{:?}", seen.slowest);
        assert_eq!(seen.lost, 0);
    }
}

#[test]
fn a_fast_link_is_used() {
    let link = Bottleneck { rate: 50_000_000, buffer: 100 * MS };
    let path = Path { latency: 20 * MS, bottleneck: Some(link), ..Path::GOOD };
    let seen = upload(path, Duration::from_secs(9));
    println!("50 Mbit/s: {:.1} % used, slowest ping {:?}, {} lost", seen.share * 100.0, seen.slowest, seen.lost);
    assert!(seen.share >= 0.85, "{}", seen.share);
}

/// One flow sends half as much again as the link takes, another one pings.
fn upload(path: Path, time: Duration) -> Seen {
    let rate = path.bottleneck.unwrap().rate;
    let mut world = World::open(1);
    world.up = path;
    world.down.latency = path.latency;
    let start = world.now;
    let (mut offered, mut next_ping, mut pings) = (0, start, Vec::new());
    let (mut carried, mut delays) = (0, Vec::new());
    while world.now < start + time {
        let elapsed = world.now - start;
        let due = (elapsed.as_secs_f64() * rate as f64 * 1.5 / 8.0) as usize;
        while offered < due {
            world.send(Side::Client, &packet(1, PACKET, 0));
            offered += PACKET;
        }
        if world.now >= next_ping {
            world.send(Side::Client, &packet(2, 64, pings.len() as u32));
            pings.push(world.now);
            next_ping += PING;
        }
        world.run(MS);
        let is_counted = elapsed >= BEGINNING;
        for packet in world.server.packets.drain(..) {
            if packet.len() == PACKET {
                carried += if is_counted { PACKET } else { 0 };
                continue;
            }
            let sent = pings[u32::from_be_bytes(*packet[28..].first_chunk().unwrap()) as usize];
            if sent >= start + BEGINNING {
                delays.push(world.now - sent);
            }
        }
        world.client.events.clear();
        world.server.events.clear();
    }
    let expected = pings.iter().filter(|sent| **sent >= start + BEGINNING && **sent < start + time - 10 * PING).count();
    Seen {
        share: carried as f64 * 8.0 / (rate as f64 * (time - BEGINNING).as_secs_f64()),
        slowest: delays.iter().max().copied().unwrap(),
        lost: expected.saturating_sub(delays.len()),
    }
}

/// A UDP packet of a flow, with a number.
fn packet(flow: u16, size: usize, number: u32) -> Vec<u8> {
    let mut packet = vec![0; size];
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&(size as u16).to_be_bytes());
    packet[9] = 17;
    packet[12..16].copy_from_slice(&[10, 99, 0, 2]);
    packet[16..20].copy_from_slice(&[10, 20, 0, 1]);
    packet[20..22].copy_from_slice(&flow.to_be_bytes());
    packet[28..32].copy_from_slice(&number.to_be_bytes());
    packet
}
