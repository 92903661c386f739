//! A TCP connection that carries random bytes both ways at once, compared by their SHA-256.

use std::{
    io::{Read, Write},
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use m2m_lab::Node;
use sha2::{Digest, Sha256};

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
    sent: Sum,
    received: Sum,
}

/// The number of bytes and their SHA-256.
#[derive(Debug, PartialEq, Eq)]
struct Sum(usize, [u8; 32]);

fn exchange(stream: TcpStream, seed: u64, bytes: usize) -> Exchanged {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(SILENCE_LIMIT)).unwrap();
    stream.set_write_timeout(Some(SILENCE_LIMIT)).unwrap();
    thread::scope(|scope| {
        let sent = scope.spawn(|| send(&stream, seed, bytes));
        let received = receive(&stream);
        Exchanged { sent: sent.join().unwrap(), received }
    })
}

fn send(mut stream: &TcpStream, seed: u64, bytes: usize) -> Sum {
    let (mut random, mut hash, mut left) = (Random(seed), Sha256::new(), bytes);
    while left > 0 {
        let mut block = random.block();
        block.truncate(left);
        stream.write_all(&block).unwrap_or_else(|error| panic!("sending stops {left} bytes before the end: {error}"));
        hash.update(&block);
        left -= block.len();
    }
    stream.shutdown(Shutdown::Write).unwrap();
    Sum(bytes, hash.finalize().into())
}

fn receive(mut stream: &TcpStream) -> Sum {
    let (mut hash, mut total, mut buffer) = (Sha256::new(), 0, vec![0; BLOCK]);
    loop {
        let length =
            stream.read(&mut buffer).unwrap_or_else(|error| panic!("nothing comes after {total} bytes: {error}"));
        if length == 0 {
            return Sum(total, hash.finalize().into());
        }
        hash.update(&buffer[..length]);
        total += length;
    }
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

/// Bytes that do not repeat: xorshift64*.
struct Random(u64);

impl Random {
    fn block(&mut self) -> Vec<u8> {
        (0..BLOCK / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}
