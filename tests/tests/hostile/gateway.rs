//! The gateway's process, as its host sees it.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use m2m_lab::{ChildHandle, Node};
use serde_json::Value;

const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9184);
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// `m2m-gateway`.
#[derive(Debug)]
pub(crate) struct Gateway {
    pub(crate) node: Node,
    pub(crate) process: ChildHandle,
}

/// What the gateway holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    /// Resident memory in bytes.
    pub(crate) memory: u64,
    /// Open files.
    pub(crate) files: usize,
}

impl Gateway {
    /// What it holds now.
    pub(crate) fn held(&self) -> Held {
        let memory = self.process.resident_bytes().expect("the gateway runs");
        Held { memory, files: fs::read_dir(format!("/proc/{}/fd", self.process.pid())).unwrap().count() }
    }

    /// The most that it holds of each, until `is_over`.
    pub(crate) fn most_held(&self, is_over: &AtomicBool) -> Held {
        let mut most = self.held();
        while !is_over.load(Ordering::Relaxed) {
            let now = self.held();
            most = Held { memory: most.memory.max(now.memory), files: most.files.max(now.files) };
            thread::sleep(POLL);
        }
        most
    }

    /// The value of a metric, 0 where it is not there yet.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics");
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// How many connections have come to this end.
    pub(crate) fn connections(&self, outcome: &str) -> u64 {
        self.metric(&format!("m2m_gateway_connections_total{{outcome=\"{outcome}\"}}"))
    }

    /// Handshakes that are under way.
    pub(crate) fn handshakes(&self) -> u64 {
        self.metric("m2m_gateway_handshakes")
    }

    /// The sessions of a device.
    pub(crate) fn sessions(&self, device: &str) -> Vec<Value> {
        let list: Value = serde_json::from_str(&self.get("/sessions")).unwrap();
        list["sessions"].as_array().unwrap().iter().filter(|session| session["device"] == device).cloned().collect()
    }

    fn get(&self, path: &str) -> String {
        let answer = self.node.within(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&METRICS, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.unwrap().unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        body.to_owned()
    }
}
