//! A TCP connection that carries random bytes both ways, slowly and until it is told to end.
#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    io::Write,
    net::{IpAddr, Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use m2m_lab::{Node, wait_until};

use crate::{Content, LIMIT, Random};

const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest time without a single byte.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
const BLOCK: usize = 8 << 10;
/// One block at a time.
const PACE: Duration = Duration::from_millis(10);
/// No connection carries less each way.
const LEAST: usize = 3 << 20;

/// A connection between a device and the company, with its four threads.
#[derive(Debug)]
pub struct Stream {
    pace: Arc<AtomicU8>,
    heard: [Arc<Mutex<Heard>>; 2],
    /// What the device sent, the company received, the company sent, the device received.
    threads: [JoinHandle<Content>; 4],
}

impl Stream {
    /// Connects `device` to `address` of `company`: 800 kB/s each way.
    #[must_use]
    pub fn start(device: &Node, company: &Node, address: IpAddr) -> Self {
        Self::start_with_blocks(device, company, address, 1)
    }

    /// As [`Stream::start`], with so many times 800 kB/s.
    #[must_use]
    pub fn start_with_blocks(device: &Node, company: &Node, address: IpAddr, blocks: usize) -> Self {
        let listener = company.within(|| TcpListener::bind((address, 0))).unwrap().unwrap();
        let server = listener.local_addr().unwrap();
        let here = device.within(|| TcpStream::connect_timeout(&server, CONNECT_LIMIT)).unwrap();
        let here = here.unwrap_or_else(|error| panic!("no connection to {server}: {error}"));
        let (there, _) = listener.accept().unwrap();
        let pace = Arc::new(AtomicU8::new(RUN));
        let heard: [Arc<Mutex<Heard>>; 2] = std::array::from_fn(|_| Arc::default());
        let send = |stream: &TcpStream, seed| {
            let (stream, pace) = (stream.try_clone().unwrap(), Arc::clone(&pace));
            thread::spawn(move || send(&stream, seed, blocks, &pace))
        };
        let receive = |stream: &TcpStream, heard: &Arc<Mutex<Heard>>| {
            let (stream, heard) = (stream.try_clone().unwrap(), Arc::clone(heard));
            thread::spawn(move || receive(&stream, &heard))
        };
        let threads = [send(&here, 1), receive(&there, &heard[0]), send(&there, 2), receive(&here, &heard[1])];
        let stream = Self { pace, heard, threads };
        stream.wait_for_more();
        stream
    }

    /// Waits until bytes come both ways, from now on.
    pub fn wait_for_more(&self) {
        for heard in &self.heard {
            let bytes = heard.lock().unwrap().bytes;
            // More than what may have been on its way.
            wait_until("more bytes", LIMIT, || heard.lock().unwrap().bytes > bytes + 4 * BLOCK).unwrap();
        }
    }

    /// Bytes that have arrived, both ways together.
    #[must_use]
    pub fn arrived(&self) -> usize {
        self.heard.iter().map(|heard| heard.lock().unwrap().bytes).sum()
    }

    /// The longest time without a byte, in the direction where it was longer, since the last call.
    pub fn take_gap(&self) -> Duration {
        self.heard.iter().map(|heard| heard.lock().unwrap().take_gap()).max().unwrap_or_default()
    }

    /// Sends nothing until [`Stream::resume`].
    pub fn pause(&self) {
        self.pace.store(PAUSE, Ordering::Relaxed);
    }

    /// Sends again.
    pub fn resume(&self) {
        self.pace.store(RUN, Ordering::Relaxed);
    }

    /// Ends the connection in order and checks that everything arrived as it was sent.
    pub fn finish(self) {
        self.pace.store(FINISH, Ordering::Relaxed);
        let [up, up_there, down, down_here] = self.threads.map(|thread| thread.join().unwrap());
        assert_eq!(up, up_there, "other bytes arrived at the company than were sent");
        assert_eq!(down, down_here, "other bytes arrived at the device than were sent");
        println!("{} bytes up and {} down arrived as they were sent", up.bytes(), down.bytes());
    }
}

const RUN: u8 = 0;
const PAUSE: u8 = 1;
const FINISH: u8 = 2;

/// What came, and the longest time in which nothing did.
#[derive(Debug)]
struct Heard {
    bytes: usize,
    last: Instant,
    longest: Duration,
}

impl Default for Heard {
    fn default() -> Self {
        Self { bytes: 0, last: Instant::now(), longest: Duration::ZERO }
    }
}

impl Heard {
    fn hear(&mut self, bytes: usize) {
        self.longest = self.longest.max(self.last.elapsed());
        self.last = Instant::now();
        self.bytes += bytes;
    }

    fn take_gap(&mut self) -> Duration {
        std::mem::take(&mut self.longest).max(self.last.elapsed())
    }
}

fn send(mut stream: &TcpStream, seed: u64, blocks: usize, pace: &AtomicU8) -> Content {
    stream.set_write_timeout(Some(SILENCE_LIMIT)).unwrap();
    let (mut random, mut sent) = (Random::new(seed), Content::default());
    loop {
        let pace = pace.load(Ordering::Relaxed);
        if pace == FINISH && sent.bytes() >= LEAST {
            break;
        }
        if pace != PAUSE {
            let block = random.block(BLOCK * blocks);
            stream
                .write_all(&block)
                .unwrap_or_else(|error| panic!("sending stops after {} bytes: {error}", sent.bytes()));
            sent.add(&block);
        }
        thread::sleep(PACE);
    }
    stream.shutdown(Shutdown::Write).unwrap();
    sent
}

fn receive(stream: &TcpStream, heard: &Mutex<Heard>) -> Content {
    stream.set_read_timeout(Some(SILENCE_LIMIT)).unwrap();
    Content::receive(stream, |length| heard.lock().unwrap().hear(length))
}
