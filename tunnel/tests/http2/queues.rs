//! Nothing piles up: not before a slow socket, not before a receiver that stands still.

use std::time::{Duration, Instant};

use m2m_tunnel::http2::{Received, Sender};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, split},
    sync::watch,
};

use crate::ends::{packets, soon, tunnel, tunnel_over};

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
    let ((mut sender, _receiver, control), (_sender, mut receiver, _)) = (client.split(), server.split());
    gate.send_replace(false);
    let packet = vec![7; 1400];
    let sent = fill(&mut sender, &packet).await;
    // What the queue holds to begin with and one packet; and besides what is in the pipe and in one write
    assert!(sender.waiting() <= 16 * 1024 + 1404, "{}", sender.waiting());
    assert!(sent * packet.len() <= 2 * 16 * 1024 + 4096 + 1024 + 1400, "{sent} packets");
    assert_eq!(sender.try_send(&mut [packet.as_slice()].into_iter()), Ok(0));
    // Whoever wants to say something waits as well.
    assert!(tokio::time::timeout(A_WHILE, control.assign_addresses(vec![])).await.is_err());
    gate.send_replace(true);
    assert!(packets(&mut receiver, sent).await.iter().all(|received| *received == packet));
    soon(sender.ready()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_stands_still_stops_the_sender() {
    let (client, server) = tunnel().await;
    let ((mut sender, _receiver, _), (_sender, mut receiver, control)) = (client.split(), server.split());
    // The window is wide open when the answer to a PING is back.
    soon(control.ping()).await.unwrap();
    let packet = vec![7; 1400];
    let sent = soon(fill(&mut sender, &packet)).await;
    let window = 6 * 1024 * 1024;
    let bytes = sent * 1404;
    // The window, the queue, and what fits into one frame more
    assert!((window..window + 256 * 1024 + 64 * 1024 + 1404).contains(&bytes), "{bytes} bytes");
    assert!(packets(&mut receiver, sent).await.iter().all(|received| *received == packet));
    soon(sender.ready()).await.unwrap();
}

/// A way of 2 Mbit/s with a buffer of 1 KiB.
const RATE: usize = 250_000;

async fn throttle(near: DuplexStream, far: DuplexStream) {
    let (mut near_in, mut near_out) = split(near);
    let (mut far_in, mut far_out) = split(far);
    let there = async {
        let piece = RATE / 500;
        let mut buffer = vec![0; piece];
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

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_is_full_and_its_queue_is_short() {
    let ((near, near_relay), (far_relay, far)) = (tokio::io::duplex(1024), tokio::io::duplex(1024));
    tokio::spawn(throttle(near_relay, far_relay));
    let (client, server) = tunnel_over(near, far).await;
    let ((mut sender, _receiver, _), (_sender, mut receiver, _)) = (client.split(), server.split());

    let begin = Instant::now();
    let flood = async {
        loop {
            sender.ready().await.unwrap();
            let mut packet = [0; 1400];
            packet[..8].copy_from_slice(&(begin.elapsed().as_nanos() as u64).to_be_bytes());
            sender.try_send(&mut [packet.as_slice()].into_iter()).unwrap();
        }
    };
    let measure = async {
        let (mut delays, mut batch) = (Vec::new(), Vec::new());
        while begin.elapsed() < Duration::from_secs(3) {
            assert!(matches!(receiver.recv(&mut batch).await, Ok(Received::Packets(_))));
            for packet in batch.drain(..) {
                let sent = Duration::from_nanos(u64::from_be_bytes(packet[..8].try_into().unwrap()));
                delays.push((sent, begin.elapsed() - sent));
            }
        }
        delays
    };
    let delays = tokio::select! {
        delays = soon(measure) => delays,
        () = flood => unreachable!(),
    };
    let carried = delays.len() * 1400;
    assert!(carried > RATE * 3 * 8 / 10, "{carried} bytes in 3 s");
    let mut settled: Vec<_> = delays.iter().filter(|(sent, _)| *sent > Duration::from_secs(1)).collect();
    settled.sort_by_key(|(_, delay)| *delay);
    let median = settled[settled.len() / 2].1;
    assert!(median < Duration::from_millis(30), "{median:?}");
}
