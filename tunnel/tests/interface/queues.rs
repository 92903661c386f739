//! Packets between two interfaces over a loop in user space, without a tunnel.

use std::{
    io::IoSlice,
    net::{SocketAddr, TcpListener, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Buf, Bytes};
use m2m_tunnel::{
    packet::Header,
    tun::{ReadReport, Tun, TunQueue, WriteReport, is_gone},
};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::{
    machines::{NETWORK, elsewhere, interface_of, ip, isolated, soon},
    traffic::{BULK, blocking, echo, serve_echo, udp},
};

const PREFIX: &[u8] = b"prefix";

/// Bytes of a batch.
const BATCH: usize = 256 * 1024;

#[derive(Default)]
struct Totals {
    read: ReadReport,
    written: WriteReport,
}

/// Carries packets one way until the runtime ends.
async fn carry(mut from: TunQueue, mut to: TunQueue, totals: Arc<Mutex<Totals>>) {
    let mut packets = Vec::new();
    loop {
        from.readable().await.unwrap();
        let read = from.try_read_batch(PREFIX, BATCH, &mut packets, |_| true).unwrap();
        assert_eq!(packets.len(), read.packets);
        assert_eq!(packets.iter().map(|packet| packet.len() - PREFIX.len()).sum::<usize>(), read.bytes);
        let bare = packets.drain(..).map(|mut packet| {
            assert!(packet.starts_with(PREFIX));
            packet.advance(PREFIX.len());
            assert!(Header::parse(&packet).is_some());
            packet
        });
        let written = to.try_write_batch(bare).unwrap();
        let mut totals = totals.lock().unwrap();
        totals.read.packets += read.packets;
        totals.read.calls += read.calls;
        totals.read.malformed += read.malformed;
        totals.written.written += written.written;
        totals.written.dropped += written.dropped;
        totals.written.calls += written.calls;
    }
}

/// This machine, 10.99.0.2 and fd99::2, and another, 10.99.0.1 and fd99::1, with a loop between them.
fn joined<T: Send + 'static>(
    queues: u16,
    opened_there: impl FnOnce() -> T + Send + 'static,
) -> (Arc<Mutex<Totals>>, T) {
    let here = interface_of("m2m0", 1280, queues, &["10.99.0.2/24", "fd99::2/64"]);
    let (there, opened) =
        elsewhere(move || (interface_of("m2mgw0", 1280, queues, &["10.99.0.1/24", "fd99::1/64"]), opened_there()));
    let totals = Arc::new(Mutex::new(Totals::default()));
    for (from, to) in [(&here, &there), (&there, &here)] {
        let (from, to) = (from.queues(), to.queues());
        assert_eq!((from.len(), to.len()), (queues.into(), queues.into()));
        for (from, to) in from.into_iter().zip(to) {
            tokio::spawn(carry(from, to, Arc::clone(&totals)));
        }
    }
    (totals, opened)
}

async fn tcp_passes(queues: u16) {
    let (totals, listeners) =
        joined(queues, || ["10.99.0.1:7000", "[fd99::1]:7000"].map(|address| TcpListener::bind(address).unwrap()));
    for listener in listeners {
        let address = listener.local_addr().unwrap();
        let serving = tokio::task::spawn_blocking(move || serve_echo(&listener));
        blocking(move || echo(address)).await;
        soon(serving).await.unwrap();
    }
    let totals = totals.lock().unwrap();
    assert_eq!((totals.read.malformed, totals.written.dropped), (0, 0));
    assert!(totals.read.packets > 4 * BULK / 1280, "segments are no larger than the MTU");
    assert!(
        totals.read.calls < totals.read.packets / 4,
        "{} reads, {} packets",
        totals.read.calls,
        totals.read.packets
    );
    assert!(
        totals.written.calls < totals.written.written / 4,
        "{} writes, {} packets",
        totals.written.calls,
        totals.written.written
    );
}

#[test]
fn tcp_passes_one_queue() {
    isolated("queues::tcp_passes_one_queue", NETWORK, || tcp_passes(1));
}

#[test]
fn tcp_passes_several_queues() {
    isolated("queues::tcp_passes_several_queues", NETWORK, || tcp_passes(4));
}

/// Whether the kernel gives and takes groups of UDP datagrams on a TUN interface (Linux 6.2).
fn merges_udp() -> bool {
    let kernel = nix::sys::utsname::uname().unwrap().release().to_str().unwrap().to_owned();
    let mut numbers = kernel.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(2))
}

#[test]
fn udp_datagrams_pass_in_groups() {
    const DATAGRAM: u16 = 1000;
    isolated("queues::udp_datagrams_pass_in_groups", NETWORK, || async {
        let (totals, receivers) = joined(1, || ["10.99.0.1:7000", "[fd99::1]:7000"].map(udp));
        let sent: Arc<[u8]> = (0..40_500usize).map(|nth| (nth * 31 + nth / 251) as u8).collect();
        for (receiver, from) in receivers.into_iter().zip(["10.99.0.2:0", "[fd99::2]:0"]) {
            let sender = udp(from);
            sender.connect(receiver.local_addr().unwrap()).unwrap();
            let control = [ControlMessage::UdpGsoSegments(&DATAGRAM)];
            let size = sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(&sent)], &control, MsgFlags::empty(), None);
            assert_eq!(size, Ok(sent.len()));
            let expected = Arc::clone(&sent);
            blocking(move || {
                for part in expected.chunks(DATAGRAM.into()) {
                    let mut buffer = [0; 2000];
                    let size = receiver.recv(&mut buffer).unwrap();
                    assert!(buffer[..size] == *part, "other bytes");
                }
            })
            .await;
        }
        // The last batch is counted after it arrived.
        soon(async {
            while totals.lock().unwrap().written.written < 2 * 41 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let totals = totals.lock().unwrap();
        assert_eq!((totals.read.malformed, totals.written.dropped), (0, 0));
        if merges_udp() {
            assert!(totals.read.calls < 41, "{} reads", totals.read.calls);
            assert!(totals.written.calls < 41, "{} writes", totals.written.calls);
        }
    });
}

fn one_queue(tun: &Tun) -> TunQueue {
    tun.queues().pop().unwrap()
}

/// A datagram that somebody here sends to `to`, as it leaves the machine.
async fn datagram(queue: &mut TunQueue, socket: &UdpSocket, to: &str) -> Bytes {
    socket.send_to(b"datagram", to).unwrap();
    let to: SocketAddr = to.parse().unwrap();
    let mut packets = Vec::new();
    soon(async {
        loop {
            queue.readable().await.unwrap();
            queue.try_read_batch(&[], BATCH, &mut packets, |header| header.destination == to.ip()).unwrap();
            if let Some(packet) = packets.pop() {
                return packet;
            }
        }
    })
    .await
}

#[test]
fn what_is_refused_is_not_cut() {
    isolated("queues::what_is_refused_is_not_cut", NETWORK, || async {
        let tun = interface_of("m2m0", 1280, 1, &["10.99.0.2/24"]);
        let mut queue = one_queue(&tun);
        let socket = udp("10.99.0.2:0");
        socket.send_to(b"refused", "10.99.0.1:7000").unwrap();
        let mut packets = Vec::new();
        let source = socket.local_addr().unwrap().ip();
        soon(async {
            let mut refused = 0;
            while refused == 0 {
                queue.readable().await.unwrap();
                let report = queue
                    .try_read_batch(&[], BATCH, &mut packets, |header| {
                        refused += usize::from(header.source == source);
                        false
                    })
                    .unwrap();
                assert_eq!((report.packets, report.bytes, report.refused), (0, 0, report.calls));
            }
        })
        .await;
        assert!(packets.is_empty());
        assert_eq!(queue.try_read_batch(&[], BATCH, &mut packets, |_| true).unwrap(), ReadReport::default());
    });
}

#[test]
fn an_interface_that_is_down_drops_and_one_that_is_gone_is_an_error() {
    let name = "queues::an_interface_that_is_down_drops_and_one_that_is_gone_is_an_error";
    isolated(name, NETWORK, || async {
        let tun = interface_of("m2m0", 1280, 1, &["10.99.0.2/24"]);
        let mut queue = one_queue(&tun);
        let packet = datagram(&mut queue, &udp("10.99.0.2:0"), "10.99.0.1:7000").await;
        let two = || [packet.clone(), packet.clone()];
        assert_eq!(queue.try_write_batch(two()).unwrap().written, 2);
        ip("link set m2m0 down");
        let report = queue.try_write_batch(two()).unwrap();
        assert_eq!((report.written, report.dropped), (0, 2));
        ip("link set m2m0 up");
        let report = queue.try_write_batch([packet.clone(), Bytes::from_static(&[0x10; 40])]).unwrap();
        assert_eq!((report.written, report.dropped), (1, 1));
        ip("link delete m2m0");
        assert!(is_gone(&queue.try_write_batch(two()).unwrap_err()));
    });
}

#[test]
fn the_mtu_can_be_changed() {
    isolated("queues::the_mtu_can_be_changed", NETWORK, || async {
        let tun = interface_of("m2m0", 1280, 2, &[]);
        tun.clone().set_mtu(1400).unwrap();
        let shown = Command::new("ip").args(["link", "show", "m2m0"]).output().unwrap();
        assert!(String::from_utf8(shown.stdout).unwrap().contains("mtu 1400"));
        assert!(tun.set_mtu(60).is_err());
    });
}
