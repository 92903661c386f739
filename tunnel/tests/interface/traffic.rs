//! What passes between the machines.

use std::{
    io::{Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU16,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use m2m_tunnel::{
    carrier::{Command, End, Notice},
    http3::Code,
    packet::Header,
    session::{CloseReason, Event},
    tun::{Tun, TunConfig, TunError},
};

use crate::machines::{LINK, NETWORK, PATIENCE, interface, ip, isolated, lab, soon};

pub(crate) const BULK: usize = 4 << 20;

pub(crate) fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

pub(crate) fn udp(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

pub(crate) async fn blocking<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    soon(tokio::task::spawn_blocking(task)).await.unwrap()
}

/// Receives [`BULK`] bytes of a pattern and sends them back.
pub(crate) fn serve_echo(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut bytes = vec![0; BULK];
    stream.read_exact(&mut bytes).unwrap();
    stream.write_all(&bytes).unwrap();
}

pub(crate) fn echo(server: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let sent: Vec<u8> = (0..BULK).map(|nth| (nth * 31 + nth / 251) as u8).collect();
    stream.write_all(&sent).unwrap();
    let mut received = vec![0; BULK];
    stream.read_exact(&mut received).unwrap();
    assert!(sent == received, "TCP brought other bytes");
}

#[test]
fn tcp_passes_in_bulk() {
    isolated("traffic::tcp_passes_in_bulk", NETWORK, || async {
        let (lab, listeners) =
            lab(1280, || ["10.99.0.1:7000", "[fd99::1]:7000"].map(|address| TcpListener::bind(address).unwrap())).await;
        for listener in listeners {
            let address = listener.local_addr().unwrap();
            let serving = tokio::task::spawn_blocking(move || serve_echo(&listener));
            blocking(move || echo(address)).await;
            soon(serving).await.unwrap();
        }
        for side in [&lab.device, &lab.company] {
            assert!(count(&side.counters.tx_bytes) > 2 * BULK as u64);
            assert!(count(&side.counters.rx_bytes) > 2 * BULK as u64);
            // Segments were cut to the MTU before they were counted.
            assert!(count(&side.counters.tx_packets) > 2 * (BULK / 1280) as u64);
            assert_eq!(count(&side.counters.malformed), 0);
            assert_eq!(count(&side.counters.too_large), 0);
        }
    });
}

#[test]
fn packets_too_large_for_the_path_find_their_size() {
    isolated("traffic::packets_too_large_for_the_path_find_their_size", NETWORK, || async {
        let (lab, listeners) =
            lab(9000, || ["10.99.0.1:7000", "[fd99::1]:7000"].map(|address| TcpListener::bind(address).unwrap())).await;
        for listener in listeners {
            let address = listener.local_addr().unwrap();
            let serving = tokio::task::spawn_blocking(move || serve_echo(&listener));
            let before = count(&lab.device.counters.too_large);
            blocking(move || echo(address)).await;
            soon(serving).await.unwrap();
            assert!(count(&lab.device.counters.too_large) > before, "nothing was too large");
        }
    });
}

#[test]
fn only_assigned_addresses_pass() {
    isolated("traffic::only_assigned_addresses_pass", NETWORK, || async {
        let (lab, socket) = lab(1280, || udp("10.99.0.1:7000")).await;
        let (forger, honest) = (udp("10.99.0.3:0"), udp("10.99.0.2:0"));
        forger.send_to(b"forged", "10.99.0.1:7000").unwrap();
        honest.send_to(b"honest", "10.99.0.1:7000").unwrap();
        let answered = blocking(move || {
            let mut buffer = [0; 100];
            let (size, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..size], from).unwrap();
            // To an address that the device has and nobody assigned to it.
            socket.send_to(b"stray", "10.99.0.3:9").unwrap();
            (buffer[..size].to_vec(), from.ip())
        })
        .await;
        assert_eq!(answered, (b"honest".to_vec(), IpAddr::from([10, 99, 0, 2])));
        let mut buffer = [0; 100];
        assert_eq!(honest.recv_from(&mut buffer).unwrap().0, 6);
        assert!(count(&lab.device.counters.foreign_source) >= 1);
        soon(async {
            while count(&lab.device.counters.foreign_destination) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
    });
}

/// The sum of everything that a transport checksum covers, which is all ones when it is right.
fn covered_sum(packet: &[u8]) -> u32 {
    let (addresses, header) = if packet[0] >> 4 == 4 { (12..20, 20) } else { (8..40, 40) };
    let protocol = if header == 20 { packet[9] } else { packet[6] };
    let covered = [&packet[addresses], &packet[header..]].concat();
    let words = covered.chunks(2).map(|word| u32::from(word[0]) << 8 | word.get(1).map_or(0, |low| u32::from(*low)));
    let mut sum = words.sum::<u32>() + u32::from(protocol) + (packet.len() - header) as u32;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

#[test]
fn checksums_are_complete() {
    isolated("traffic::checksums_are_complete", NETWORK, || async {
        let tun = interface("m2m0", 1280, &["10.99.0.2/24", "fd99::2/64"]);
        let mut queue = tun.queues().into_iter().next().unwrap();
        for (from, to) in [("10.99.0.2:0", "10.99.0.1:7000"), ("[fd99::2]:0", "[fd99::1]:7000")] {
            let socket = udp(from);
            // 9 bytes: an odd length
            socket.send_to(b"checksums", to).unwrap();
            let to: SocketAddr = to.parse().unwrap();
            let seen = soon(async {
                loop {
                    let mut packets = Vec::new();
                    queue.readable().await.unwrap();
                    queue.try_read_batch(&[], 1 << 16, &mut packets, |_| true).unwrap();
                    for packet in packets {
                        let header = Header::parse(&packet).expect("a whole packet");
                        if header.destination == to.ip() {
                            return covered_sum(&packet);
                        }
                    }
                }
            })
            .await;
            assert_eq!(seen, 0xffff, "{to}");
        }
    });
}

#[test]
fn the_end_of_a_link_is_told_and_the_carrier_goes_on() {
    isolated("traffic::the_end_of_a_link_is_told_and_the_carrier_goes_on", NETWORK, || async {
        let (mut lab, ()) = lab(1280, || ()).await;
        lab.company.commands.send(Command::Remove(LINK, Code::NO_ERROR, "maintenance")).unwrap();
        let reason = soon(async {
            loop {
                if let Some(Notice::Link(LINK, Event::Closed(reason))) = lab.device.notices.recv().await {
                    return reason;
                }
            }
        });
        assert!(matches!(reason.await, CloseReason::Peer { reason, .. } if reason == "maintenance"));
        // A packet without a link is news, and waits for one.
        udp("10.99.0.2:0").send_to(b"anybody?", "10.99.0.1:7000").unwrap();
        soon(async { while !matches!(lab.device.notices.recv().await, Some(Notice::Wanted)) {} }).await;
        assert!(!lab.device.carrier.is_finished());
    });
}

#[test]
fn a_removed_interface_ends_the_carrier() {
    isolated("traffic::a_removed_interface_ends_the_carrier", NETWORK, || async {
        let (lab, ()) = lab(1280, || ()).await;
        ip("link delete m2m0");
        let end = soon(lab.device.carrier).await.unwrap();
        assert!(matches!(end, End::Interface(_)), "{end}");
    });
}

#[test]
fn the_carrier_outlives_an_interface_that_was_down() {
    isolated("traffic::the_carrier_outlives_an_interface_that_was_down", NETWORK, || async {
        let (lab, far) = lab(1280, || udp("10.99.0.1:7000")).await;
        let near = udp("10.99.0.2:7000");
        ip("link set m2m0 down");
        far.send_to(b"lost", "10.99.0.2:7000").unwrap();
        soon(async {
            while count(&lab.device.counters.interface) == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        ip("link set m2m0 up");
        let mut buffer = [0; 100];
        near.send_to(b"out", "10.99.0.1:7000").unwrap();
        assert_eq!(far.recv_from(&mut buffer).unwrap().0, 3);
        far.send_to(b"again", "10.99.0.2:7000").unwrap();
        assert_eq!(near.recv_from(&mut buffer).unwrap().0, 5);
        assert!(!lab.device.carrier.is_finished());
    });
}

#[test]
fn an_interface_needs_one_capability_and_no_root() {
    let name = "traffic::an_interface_needs_one_capability_and_no_root";
    isolated(name, ",+net_admin", || async {
        assert_eq!(nix::unistd::getuid().as_raw(), 1000);
        let config = TunConfig { name: "m2m0".to_owned(), mtu: 1280, queues: NonZeroU16::MIN };
        let tun = Tun::open(&config).unwrap();
        assert_eq!(tun.index(), nix::net::if_::if_nametoindex("m2m0").unwrap());
        assert_eq!(std::fs::read_to_string("/proc/self/net/dev").unwrap().matches("m2m0").count(), 1);
        assert!(matches!(Tun::open(&config), Err(TunError::Busy { .. })));
        drop(tun);
        assert!(nix::net::if_::if_nametoindex("m2m0").is_err());
    });
}

#[test]
fn without_the_capability_the_error_says_so() {
    isolated("traffic::without_the_capability_the_error_says_so", "", || async {
        let config = TunConfig { name: "m2m0".to_owned(), mtu: 1280, queues: NonZeroU16::MIN };
        let error = Tun::open(&config).unwrap_err();
        assert!(matches!(error, TunError::NotAllowed { .. }), "{error}");
        assert!(error.to_string().contains("CAP_NET_ADMIN"));
    });
}
