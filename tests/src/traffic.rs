use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use m2m_lab::{
    Node,
    addresses::{INTRANET_V4, INTRANET_V6},
};

const PAUSE: Duration = Duration::from_millis(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// Applications on a device that never stop sending: a stream from the company, and datagrams to the company and elsewhere.
#[derive(Debug)]
pub struct Traffic {
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Traffic {
    /// Starts them in a device's namespace.
    #[must_use]
    pub fn start(node: &Node) -> Self {
        let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut threads = Vec::new();
        for server in [IpAddr::from(INTRANET_V4), INTRANET_V6.into()] {
            let (node, stop, received) = (node.clone(), Arc::clone(&stop), Arc::clone(&received));
            threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let _ = node.within(|| stream(server, &stop, &received));
                    thread::sleep(PAUSE);
                }
            }));
        }
        let (node, stopped) = (node.clone(), Arc::clone(&stop));
        threads.push(thread::spawn(move || {
            let _ = node.within(|| datagrams(&stopped));
        }));
        Self { stop, received, threads }
    }

    /// Bytes that came through the tunnel so far.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn stream(server: IpAddr, stop: &AtomicBool, received: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 80), CONNECT_LIMIT)?;
    stream.set_read_timeout(Some(CONNECT_LIMIT))?;
    stream.write_all(b"GET /stream HTTP/1.1\r\nHost: intranet\r\n\r\n")?;
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Datagrams to the company, to a stranger, to the router's DNS, to the gateway and to everybody.
fn datagrams(stop: &AtomicBool) -> std::io::Result<()> {
    let v4 = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let v6 = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))?;
    v4.set_broadcast(true)?;
    while !stop.load(Ordering::Relaxed) {
        for target in [
            "10.20.0.80:9",
            "198.51.100.99:9",
            "192.0.2.1:53",
            "198.51.100.10:443",
            "192.0.2.255:9",
            "224.0.0.251:5353",
        ] {
            let _ = v4.send_to(b"in the clear", target);
        }
        for target in ["[fd20::80]:9", "[2001:db8:2::10]:443", "[2001:db8:9::9]:9"] {
            let _ = v6.send_to(b"in the clear", target);
        }
        thread::sleep(PAUSE);
    }
    Ok(())
}
