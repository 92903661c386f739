//! A machine of its own for a gateway: a network namespace that lives as long as the thread that is in it.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

pub const LIMIT: Duration = Duration::from_secs(60);

/// The namespace. Nothing of it is left when it is dropped: its processes die with its thread, it dies with them.
pub struct Host {
    jobs: mpsc::Sender<Box<dyn FnOnce() + Send>>,
}

impl Host {
    /// Has the loopback interface, on which the company's host 10.20.0.80 and fd20::80 is, too.
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; these tests need root");
            for line in ["link set lo up", "address add 10.20.0.80/32 dev lo", "address add fd20::80/128 dev lo nodad"]
            {
                assert!(Command::new("ip").args(line.split(' ')).status().unwrap().success(), "ip {line}");
            }
            queue.into_iter().for_each(|job| job());
        });
        Self { jobs }
    }

    /// Runs `work` in the namespace.
    pub fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, result) = mpsc::channel();
        self.jobs.send(Box::new(move || drop(sender.send(work())))).unwrap();
        result.recv_timeout(LIMIT).expect("the work in the namespace ends")
    }

    /// A UDP socket in the namespace.
    pub fn socket(&self) -> UdpSocket {
        self.within(|| UdpSocket::bind("127.0.0.1:0").unwrap())
    }
}

/// A running `m2m-gateway`.
pub struct Gateway {
    child: Child,
    log: PathBuf,
}

impl Gateway {
    /// Starts it in `host` with `directory/gateway.toml` and waits until it answers.
    pub fn start(host: &Host, directory: &Path) -> Self {
        let log = directory.join("gateway.log");
        let config = directory.join("gateway.toml");
        let output = File::options().create(true).append(true).open(&log).unwrap();
        // It dies with the namespace's thread.
        let child = host.within(move || {
            Command::new("setpriv")
                .args(["--pdeathsig", "KILL", env!("CARGO_BIN_EXE_m2m-gateway"), "--config"])
                .arg(config)
                .stdin(Stdio::null())
                .stdout(output.try_clone().unwrap())
                .stderr(output)
                .spawn()
                .unwrap()
        });
        let mut gateway = Self { child, log };
        wait_until("the gateway answers", || {
            assert!(gateway.child.try_wait().unwrap().is_none(), "the gateway has ended: {}", gateway.log());
            get(host, "/sessions").is_some()
        });
        gateway
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    /// Stops it in order.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        let mut status = None;
        wait_until("the gateway ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

/// The body that the gateway's page at `path` has now; `None` if it does not answer.
pub fn get(host: &Host, path: &'static str) -> Option<String> {
    let answer = host.within(move || {
        let address = SocketAddr::from(([127, 0, 0, 1], 9184));
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    })?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.to_owned())
}

/// Waits until the metrics have `line`.
pub fn wait_for_metric(host: &Host, line: &str) {
    wait_until(line, || get(host, "/metrics").is_some_and(|text| text.lines().any(|found| found == line)));
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
