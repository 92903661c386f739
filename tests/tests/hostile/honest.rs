//! The honest device's work: a TCP connection and datagrams that come back, through its tunnel.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use m2m_lab::{Node, wait_until};
use m2m_tests::{LIMIT, Stream};

/// Between two datagrams.
const PACE: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_millis(100);
/// Times 800 kB/s, each way.
const BLOCKS: usize = 4;
/// Round trips that make a figure.
const ENOUGH: usize = 50;

/// Work in progress.
#[derive(Debug)]
pub(crate) struct Work {
    stream: Stream,
    echoes: Echoes,
    since: Instant,
    arrived: usize,
}

/// How well it went for a while.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figures {
    /// Bytes a second, both ways together.
    pub(crate) throughput: f64,
    /// Half of the round trips took no longer.
    pub(crate) median: Duration,
    /// 95 of 100 took no longer.
    pub(crate) p95: Duration,
    /// The longest time in which nothing came over the TCP connection.
    pub(crate) gap: Duration,
    /// Datagrams that did not come back, and all.
    lost: (usize, usize),
    /// Of the time that a thread wants to run, what the machine gives it, and the longest time in which it did not.
    pub(crate) machine: (f64, Duration),
}

impl Work {
    /// Starts it from `device` to `address` of `company`.
    pub(crate) fn start(device: &Node, company: &Node, address: IpAddr) -> Self {
        let stream = Stream::start_with_blocks(device, company, address, BLOCKS);
        let echoes = Echoes::start(device, company, address);
        let work = Self { arrived: 0, since: Instant::now(), stream, echoes };
        wait_until("the first datagram", LIMIT, || work.echoes.count() > 0).unwrap();
        work
    }

    /// Forgets what was, to measure from now on.
    pub(crate) fn restart(&mut self) {
        self.echoes.take();
        self.stream.take_gap();
        (self.arrived, self.since) = (self.stream.arrived(), Instant::now());
    }

    /// The figures since the last [`Work::restart`], once there are enough for some.
    pub(crate) fn figures(&self) -> Figures {
        wait_until("datagrams to come back", LIMIT, || self.echoes.count() >= ENOUGH).unwrap();
        let throughput = (self.stream.arrived() - self.arrived) as f64 / self.since.elapsed().as_secs_f64();
        let elapsed = self.since.elapsed();
        let Taken { mut times, sent, pause } = self.echoes.take();
        times.sort();
        let machine = (sent as f64 * PACE.as_secs_f64() / elapsed.as_secs_f64(), pause);
        let at = |percent: usize| times[(times.len() - 1) * percent / 100];
        let lost = (sent.saturating_sub(times.len()), sent);
        Figures { throughput, median: at(50), p95: at(95), gap: self.stream.take_gap(), lost, machine }
    }

    /// Ends it; what arrived must be what was sent.
    pub(crate) fn finish(self) {
        self.stream.finish();
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { throughput, median, p95, gap, lost: (lost, sent), .. } = self;
        let (megabytes, millis) = (throughput / 1e6, |time: &Duration| time.as_secs_f64() * 1e3);
        let (median, p95, gap) = (millis(median), millis(p95), millis(gap));
        write!(
            f,
            "{megabytes:.1} MB/s, round trip {median:.1} ms, 95 % {p95:.1} ms, gap {gap:.0} ms, lost {lost}/{sent}"
        )
    }
}

/// What is known of the datagrams.
#[derive(Debug, Default)]
struct Taken {
    /// The round trips.
    times: Vec<Duration>,
    sent: usize,
    /// The longest time between two that were sent.
    pause: Duration,
}

/// Datagrams that come back, each with the time at which it was sent.
#[derive(Debug)]
struct Echoes {
    stop: Arc<AtomicBool>,
    taken: Arc<Mutex<Taken>>,
    threads: Vec<JoinHandle<()>>,
}

impl Echoes {
    fn start(device: &Node, company: &Node, address: IpAddr) -> Self {
        let server = company.within(|| UdpSocket::bind((address, 0))).unwrap().unwrap();
        let target = server.local_addr().unwrap();
        let here = device.within(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))).unwrap().unwrap();
        let sender = here.try_clone().unwrap();
        for socket in [&server, &here] {
            socket.set_read_timeout(Some(POLL)).unwrap();
        }
        let (stop, taken) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Taken>>::default());
        let begin = Instant::now();
        let until = |mut step: Box<dyn FnMut() + Send>| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    step();
                }
            })
        };
        let (counted, measured, mut last) = (Arc::clone(&taken), Arc::clone(&taken), begin);
        let threads = vec![
            until(Box::new(move || {
                let now = begin.elapsed().as_nanos() as u64;
                sender.send_to(&now.to_le_bytes(), target).unwrap();
                {
                    let mut taken = counted.lock().unwrap();
                    taken.sent += 1;
                    taken.pause = taken.pause.max(last.elapsed());
                }
                last = Instant::now();
                thread::sleep(PACE);
            })),
            until(Box::new(move || {
                let mut buffer = [0; 8];
                if let Ok((8, from)) = server.recv_from(&mut buffer) {
                    server.send_to(&buffer, from).unwrap();
                }
            })),
            until(Box::new(move || {
                let mut buffer = [0; 8];
                if let Ok(8) = here.recv(&mut buffer) {
                    let sent = Duration::from_nanos(u64::from_le_bytes(buffer));
                    measured.lock().unwrap().times.push(begin.elapsed() - sent);
                }
            })),
        ];
        Self { stop, taken, threads }
    }

    fn count(&self) -> usize {
        self.taken.lock().unwrap().times.len()
    }

    /// What is known since the last call.
    fn take(&self) -> Taken {
        std::mem::take(&mut *self.taken.lock().unwrap())
    }
}

impl Drop for Echoes {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
