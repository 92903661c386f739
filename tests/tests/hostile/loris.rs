//! Slow loris on TCP port 443: connections that never come to a request, and stay.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use m2m_lab::wait_until;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::{
    http2::{Http2, tcp, tcp_here, tls},
    stage::{Cost, Stage},
};

/// Connections from one address.
const FROM_ONE: usize = 1000;
/// Addresses of the others, and connections from each: more than the gateway takes in all.
const OTHERS: (u8, usize) = (30, 50);
/// Connections that finish TLS and say nothing then.
const SILENT: usize = 40;
/// `max_handshakes_per_source`.
const PER_SOURCE: usize = 64;
/// `max_handshakes`, and those that are about to leave: so many connections are open at once, however many are tried, and so many files.
const MOST: usize = 512 + 64;
/// A TCP connection in its TLS handshake has some 20 kB.
const COST: Cost = Cost { memory: 32 << 20, files: MOST + 8 };
const SOON: Duration = Duration::from_secs(5);

#[test]
fn connections_that_go_nowhere_are_few_and_end() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    let mut stage = Stage::set();

    let mut silent = Vec::new();
    stage.attack_on("TCP from one address", COST, |stage| {
        let from = Ipv4Addr::new(198, 19, 0, 1);
        silent.extend(stage.enemy.within(|| open(from, FROM_ONE, &[])).unwrap());
        wait_until("refusals", SOON, || open_ones(&mut silent) <= PER_SOURCE).unwrap();
        come_by_tcp(stage);
    });

    let mut halves: Vec<_> = (0..SILENT)
        .map(|_| tls(tcp(&stage.enemy, Ipv4Addr::new(198, 19, 0, 3)).unwrap(), &stage.credentials).unwrap())
        .map(|finished| {
            finished.sock.set_nonblocking(true).unwrap();
            finished.sock
        })
        .collect();
    stage.attack_on("TCP from many addresses", COST, |stage| {
        for host in 0..OTHERS.0 {
            let from = Ipv4Addr::new(198, 19, 1, 1 + host);
            halves.extend(stage.enemy.within(|| open(from, OTHERS.1, HALF_A_HELLO)).unwrap());
        }
        wait_until("refusals", SOON, || open_ones(&mut halves) <= MOST).unwrap();
        // All places are taken.
        come_by_tcp(stage);
    });
    let mut rest: Vec<_> = silent.into_iter().chain(halves).collect();
    wait_until("the gateway to lose patience", Duration::from_secs(15), || open_ones(&mut rest) == 0).unwrap();
    stage.finish();
}

/// Whoever comes from elsewhere finds room, over TCP as well.
fn come_by_tcp(stage: &Stage) {
    let begin = Instant::now();
    Http2::connect(&stage.enemy, Ipv4Addr::new(198, 19, 0, 2), &stage.credentials).unwrap().receive().unwrap();
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
}

/// A TLS record that says 512 bytes, and the first of them.
const HALF_A_HELLO: &[u8] = &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];

fn open(from: Ipv4Addr, count: usize, first: &[u8]) -> Vec<TcpStream> {
    let begin = |_| {
        let mut stream = tcp_here(from).unwrap();
        // One that is refused already takes nothing.
        let _ = stream.write_all(first);
        stream.set_nonblocking(true).unwrap();
        stream
    };
    (0..count).map(begin).collect()
}

/// How many are open; the others are forgotten.
fn open_ones(connections: &mut Vec<TcpStream>) -> usize {
    let mut buffer = [0; 4096];
    connections.retain_mut(|stream| {
        loop {
            match stream.read(&mut buffer) {
                Ok(1..) => {}
                Ok(0) => return false,
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    });
    connections.len()
}
