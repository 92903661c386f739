//! Nothing piles up: not before a slow socket, not before a receiver that stands still.

use std::time::{Duration, Instant};

use m2m_tunnel::{
    capsule::AssignedAddress,
    http2::{Http2Tunnel, Received, Sender},
    session::{CloseReason, Event},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, split},
    sync::watch,
};

use crate::ends::{event, packets, soon, tunnel, tunnel_over};

/// Time in which something that is not to happen would have happened.
const A_WHILE: Duration = Duration::from_millis(200);

/// Sends until there is no room for a while; how many packets.
async fn fill(sender: &mut Sender, packet: &[u8]) -> usize {
    let mut sent = 0;
    while let Ok(ready) = tokio::time::timeout(A_WHILE, sender.ready()).await {
        ready.unwrap();
        sent += sender.try_send(&mut std::iter::repeat_n(packet, 1000)).unwrap();
    }
    sent
}

/// A pipe with small buffers whose way there can be shut.
fn gated() -> (DuplexStream, DuplexStream, watch::Sender<bool>) {
    let (near, near_relay) = tokio::io::duplex(4096);
    let (far_relay, far) = tokio::io::duplex(4096);
    let (gate, mut open) = watch::channel(true);
    tokio::spawn(async move {
        let (mut near_in, mut near_out) = split(near_relay);
        let (mut far_in, mut far_out) = split(far_relay);
        let there = async {
            let mut buffer = [0; 1024];
            loop {
                open.wait_for(|open| *open).await.unwrap();
                let Ok(count @ 1..) = near_in.read(&mut buffer).await else { return };
                open.wait_for(|open| *open).await.unwrap();
                far_out.write_all(&buffer[..count]).await.unwrap();
            }
        };
        tokio::join!(there, copy(&mut far_in, &mut near_out)).1.unwrap();
    });
    (near, far, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_that_takes_nothing_stops_the_sender_at_once() {
    let (near, far, gate) = gated();
    let (client, server) = tunnel_over(near, far).await;
    let Http2Tunnel { mut sender, receiver: _receiver, control, .. } = client;
    let Http2Tunnel { sender: _sender, mut receiver, .. } = server;
    gate.send_replace(false);
    let packet = vec![7; 1400];
    let sent = fill(&mut sender, &packet).await;
    // What the queue holds to begin with and one packet; and besides what is in the pipe and in one write
    assert!(sender.waiting() <= 16 * 1024 + 1404, "{}", sender.waiting());
    assert!(sent * packet.len() <= 2 * 16 * 1024 + 4096 + 1024 + 1400, "{sent} packets");
    assert_eq!(sender.try_send(&mut [packet.as_slice()].into_iter()), Ok(0));
    // What has to be said goes behind it.
    control.assign_addresses(vec![]).unwrap();
    gate.send_replace(true);
    assert!(packets(&mut receiver, sent).await.iter().all(|received| *received == packet));
    assert_eq!(event(&mut receiver).await, Event::AddressesAssigned(vec![]));
    soon(sender.ready()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_is_told_more_than_it_takes_is_given_up() {
    let (near, far, gate) = gated();
    let (client, _server) = tunnel_over(near, far).await;
    gate.send_replace(false);
    let many = vec![AssignedAddress::unrequested("10.99.0.2/32".parse().unwrap()); 1000];
    let mut said = 0;
    let reason = loop {
        match client.control.assign_addresses(many.clone()) {
            Ok(()) => said += many.len() * 7,
            Err(reason) => break reason,
        }
        assert!(said < 3 << 20, "no end");
    };
    assert!(matches!(reason, CloseReason::Transport(_)), "{reason}");
    assert!(said > 1 << 19, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stands_still_stops_the_sender() {
    let (client, server) = tunnel().await;
    let (mut sender, _receiver) = (client.sender, client.receiver);
    let Http2Tunnel { sender: _sender, mut receiver, mut pinger, .. } = server;
    // The window is wide open when the answer to a PING is back.
    soon(pinger.ping()).await.unwrap();
    let packet = vec![7; 1400];
    let sent = soon(fill(&mut sender, &packet)).await;
    let window = 6 * 1024 * 1024;
    let bytes = sent * 1404;
    // The window, the queue, and what fits into one frame more
    assert!((window..window + 256 * 1024 + 64 * 1024 + 1404).contains(&bytes), "{bytes} bytes");
    assert!(packets(&mut receiver, sent).await.iter().all(|received| *received == packet));
    soon(sender.ready()).await.unwrap();
}

/// The bytes per second of a slow link: 2 Mbit/s.
const RATE: usize = 250_000;

/// What a slow link's buffer holds.
const BUFFER: usize = 2048;

async fn throttle(near: DuplexStream, far: DuplexStream) {
    let (mut near_in, mut near_out) = split(near);
    let (mut far_in, mut far_out) = split(far);
    let there = async {
        let mut buffer = vec![0; BUFFER / 4];
        let mut free_at = Instant::now();
        loop {
            let Ok(count @ 1..) = near_in.read(&mut buffer).await else { return };
            // What a late wake-up cost is made up for.
            free_at = free_at.max(Instant::now() - Duration::from_millis(20))
                + Duration::from_secs_f64(count as f64 / RATE as f64);
            tokio::time::sleep_until(free_at.into()).await;
            if far_out.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::join!(there, copy(&mut far_in, &mut near_out));
}

/// Floods a slow link for so long; the bytes that it carried, and how long the packet in the middle was on its way.
async fn flood(time: Duration) -> (usize, Duration) {
    let ((near, near_relay), (far_relay, far)) = (tokio::io::duplex(BUFFER), tokio::io::duplex(BUFFER));
    tokio::spawn(throttle(near_relay, far_relay));
    let (client, server) = tunnel_over(near, far).await;
    let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);

    let begin = Instant::now();
    let flood = async {
        loop {
            sender.ready().await.unwrap();
            let mut packet = [0; 1400];
            packet[..8].copy_from_slice(&(begin.elapsed().as_nanos() as u64).to_be_bytes());
            sender.try_send(&mut [packet].into_iter()).unwrap();
        }
    };
    let measure = async {
        let (mut delays, mut batch) = (Vec::new(), Vec::new());
        while begin.elapsed() < time {
            assert!(matches!(receiver.recv(&mut batch).await, Ok(Received::Packets(_))));
            for packet in batch.drain(..) {
                let sent = Duration::from_nanos(u64::from_be_bytes(packet[..8].try_into().unwrap()));
                delays.push(begin.elapsed() - sent);
            }
        }
        delays
    };
    let mut delays = tokio::select! {
        delays = soon(measure) => delays,
        () = flood => unreachable!(),
    };
    delays.sort();
    (delays.len() * 1400, delays[delays.len() / 2])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_full_and_its_queue_is_short() {
    let time = Duration::from_secs(2);
    let mut seen = Vec::new();
    // A machine that is busy otherwise gets another chance.
    while seen.len() < 5 {
        let (carried, median) = flood(time).await;
        if carried > RATE * 2 * 8 / 10 && median < Duration::from_millis(30) {
            return;
        }
        seen.push((carried, median));
    }
    panic!("bytes in {time:?}, delay: {seen:?}");
}
