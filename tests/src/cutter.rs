use std::{
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use m2m_lab::Node;

const POLL: Duration = Duration::from_millis(20);

/// Stands on port 443 in front of a server on another port and cuts what the server answers after some bytes.
#[derive(Debug)]
pub struct Cutter {
    limit: Arc<AtomicUsize>,
    cut: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Cutter {
    /// Listens on a node, for IPv4 and IPv6, and forwards to `port` of its loopback. Nothing is cut yet.
    ///
    /// # Errors
    /// When port 443 is taken.
    pub fn start(node: &Node, port: u16) -> anyhow::Result<Self> {
        let listener = node.within(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 443)))??;
        listener.set_nonblocking(true)?;
        let mut cutter = Self {
            limit: Arc::new(AtomicUsize::new(usize::MAX)),
            cut: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let (limit, cut, stop) = (Arc::clone(&cutter.limit), Arc::clone(&cutter.cut), Arc::clone(&cutter.stop));
        let node = node.clone();
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let Ok((client, _)) = listener.accept() else {
                    thread::sleep(POLL);
                    continue;
                };
                let server = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                if let Ok(Ok(server)) = node.within(|| TcpStream::connect(server)) {
                    let (limit, cut) = (limit.load(Ordering::Relaxed), Arc::clone(&cut));
                    thread::spawn(move || forward(&client, &server, limit, &cut));
                }
            }
        });
        cutter.thread = Some(thread);
        Ok(cutter)
    }

    /// From the next connection on, the server's answers end after `bytes`; `usize::MAX` for never.
    pub fn cut_after(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// How many connections have been cut.
    #[must_use]
    pub fn cuts(&self) -> usize {
        self.cut.load(Ordering::Relaxed)
    }
}

impl Drop for Cutter {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn forward(client: &TcpStream, server: &TcpStream, limit: usize, cut: &AtomicUsize) {
    let _ = client.set_nonblocking(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            copy(client, server, usize::MAX);
            let _ = server.shutdown(Shutdown::Write);
        });
        if copy(server, client, limit) {
            cut.fetch_add(1, Ordering::Relaxed);
        }
        let _ = client.shutdown(Shutdown::Both);
        let _ = server.shutdown(Shutdown::Both);
    });
}

/// Copies until the end or until `limit` bytes, and says whether it was the limit.
fn copy(mut from: &TcpStream, mut to: &TcpStream, limit: usize) -> bool {
    let mut left = limit;
    let mut buffer = [0; 4096];
    while left > 0 {
        let most = buffer.len().min(left);
        let Ok(length @ 1..) = from.read(&mut buffer[..most]) else {
            return false;
        };
        if to.write_all(&buffer[..length]).is_err() {
            return false;
        }
        left -= length;
    }
    true
}
