//! A TCP connection that carries random bytes both ways at once, compared by their SHA-256.

use std::{
    io::Write,
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use m2m_lab::Node;
use m2m_tests::{Content, Random};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest time without a single byte.
const SILENCE_LIMIT: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);
const BLOCK: usize = 16 << 10;

/// Connects from one node to `address` of another, sends `bytes` each way and checks that they arrive as they were.
pub(crate) fn both_ways(from: &Node, to: &Node, address: IpAddr, bytes: usize) {
    let listener = to.within(|| TcpListener::bind((address, 0))).unwrap().unwrap();
    let server = listener.local_addr().unwrap();
    thread::scope(|scope| {
        let there = scope.spawn(|| exchange(accept(&listener), 1, bytes));
        let stream = from.within(|| TcpStream::connect_timeout(&server, CONNECT_LIMIT)).unwrap();
        let stream = stream.unwrap_or_else(|error| panic!("{}: no connection to {server}: {error}", from.name()));
        let here = exchange(stream, 2, bytes);
        let there = there.join().unwrap();
        assert_eq!(here.sent, there.received, "to {server}: other bytes arrived than were sent");
        assert_eq!(there.sent, here.received, "from {server}: other bytes arrived than were sent");
    });
}

/// What one end has sent and received.
struct Exchanged {
    sent: Content,
    received: Content,
}

fn exchange(stream: TcpStream, seed: u64, bytes: usize) -> Exchanged {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SILENCE_LIMIT)).unwrap();
    stream.set_write_timeout(Some(SILENCE_LIMIT)).unwrap();
    thread::scope(|scope| {
        let sent = scope.spawn(|| send(&stream, seed, bytes));
        let received = Content::receive(&stream, |_| ());
        Exchanged { sent: sent.join().unwrap(), received }
    })
}

fn send(mut stream: &TcpStream, seed: u64, bytes: usize) -> Content {
    let (mut random, mut sent, mut left) = (Random::new(seed), Content::default(), bytes);
    while left > 0 {
        let mut block = random.block(BLOCK);
        block.truncate(left);
        stream.write_all(&block).unwrap_or_else(|error| panic!("sending stops {left} bytes before the end: {error}"));
        sent.add(&block);
        left -= block.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sent
}

fn accept(listener: &TcpListener) -> TcpStream {
    listener.set_nonblocking(true).unwrap();
    let deadline = Instant::now() + CONNECT_LIMIT;
    loop {
        match listener.accept() {
            Ok((stream, _)) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "nobody connects: {error}"),
        }
        thread::sleep(POLL);
    }
}
