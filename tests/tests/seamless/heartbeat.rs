//! A datagram to the company every 10 ms, which comes back at once.

use std::{
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use m2m_lab::Node;

const PACE: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(100);

/// The datagrams, until this is dropped.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    stop: Arc<AtomicBool>,
    heard: Arc<Mutex<Heard>>,
    threads: Vec<JoinHandle<()>>,
}

/// When the first and the last one came back, and the longest time in between without one.
#[derive(Debug, Default)]
struct Heard {
    first: Option<Instant>,
    last: Option<Instant>,
    longest: Duration,
    beats: u64,
}

impl Heartbeat {
    /// Starts them from `device` to `address` of `company`, whether there is a tunnel or not.
    pub(crate) fn start(device: &Node, company: &Node, address: IpAddr) -> Self {
        let server = company.within(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        let target = server.local_addr().unwrap();
        let here = device.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
        let sender = here.try_clone().unwrap();
        let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Heard::default())));
        let until = |stop: &Arc<AtomicBool>| {
            let stop = Arc::clone(stop);
            move || stop.load(Ordering::Relaxed)
        };
        let (ends, stops, ceases, hearing) = (until(&stop), until(&stop), until(&stop), Arc::clone(&heard));
        let threads = vec![
            thread::spawn(move || {
                while !ends() {
                    // Without a tunnel there may be no route.
                    let _ = sender.send_to(b"beat", target);
                    thread::sleep(PACE);
                }
            }),
            thread::spawn(move || {
                receive(&server, &stops, |from| {
                    let _ = server.send_to(b"beat", from);
                });
            }),
            thread::spawn(move || receive(&here, &ceases, |_| hearing.lock().unwrap().hear())),
        ];
        Self { stop, heard, threads }
    }

    /// When the first one came back.
    pub(crate) fn first(&self) -> Option<Instant> {
        self.heard.lock().unwrap().first
    }

    /// How many came back.
    pub(crate) fn beats(&self) -> u64 {
        self.heard.lock().unwrap().beats
    }

    /// The longest time without one since the last call, or since the first one.
    pub(crate) fn take_gap(&self) -> Duration {
        let mut heard = self.heard.lock().unwrap();
        let now = heard.last.map(|last| last.elapsed()).unwrap_or_default();
        std::mem::take(&mut heard.longest).max(now)
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Heard {
    fn hear(&mut self) {
        let now = Instant::now();
        self.beats += 1;
        self.first.get_or_insert(now);
        let last = self.last.replace(now).unwrap_or(now);
        self.longest = self.longest.max(now.duration_since(last));
    }
}

fn receive(socket: &UdpSocket, is_over: &impl Fn() -> bool, mut came: impl FnMut(std::net::SocketAddr)) {
    socket.set_read_timeout(Some(POLL)).unwrap();
    let mut buffer = [0; 64];
    while !is_over() {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            came(from);
        }
    }
}
