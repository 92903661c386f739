//! What is known of each link.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use m2m_tunnel::carrier;
use m2m_tunnel::routes::IpRange;
use tokio::task::AbortHandle;

use crate::network::firewall::Opening;
use crate::roaming::{LinkId, Transport};

/// What the machine's network was made to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) addresses: Vec<IpNet>,
    pub(super) routes: Vec<IpRange>,
    pub(super) mtu: u16,
}

/// A link.
#[derive(Debug)]
pub(super) struct Line {
    /// Which of the gateways.
    pub(super) gateway: usize,
    pub(super) transport: Transport,
    pub(super) remote: Option<SocketAddr>,
    /// The largest packet in bytes that it carries.
    pub(super) packet_size: usize,
    /// Keeps the firewall open for the gateway.
    pub(super) opening: Option<Opening>,
    /// The addresses that the gateway assigned, of the families that are wanted.
    pub(super) addresses: Option<Vec<IpNet>>,
    /// What the gateway reaches.
    pub(super) routes: Option<Vec<IpRange>>,
    pub(super) is_up: bool,
    /// The address that it uses on this machine.
    pub(super) local: Option<IpAddr>,
    /// The last request id that was used.
    pub(super) requests: u64,
    attempt: AbortHandle,
}

impl Line {
    pub(super) fn new(gateway: usize, transport: Transport, attempt: AbortHandle) -> Self {
        Self {
            gateway,
            transport,
            remote: None,
            packet_size: 0,
            opening: None,
            addresses: None,
            routes: None,
            is_up: false,
            local: None,
            requests: 0,
            attempt,
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // Nothing, once it is open.
        self.attempt.abort();
    }
}

/// All links.
#[derive(Debug, Default)]
pub(super) struct Lines(BTreeMap<u64, (LinkId, Line)>);

impl Lines {
    /// The carrier's name of a link.
    pub(super) fn key(link: LinkId) -> carrier::LinkId {
        carrier::LinkId(link.number())
    }

    pub(super) fn add(&mut self, link: LinkId, line: Line) {
        self.0.insert(link.number(), (link, line));
    }

    pub(super) fn get_mut(&mut self, link: LinkId) -> Option<&mut Line> {
        self.0.get_mut(&link.number()).map(|(_, line)| line)
    }

    pub(super) fn by_key(&mut self, key: u64) -> Option<(LinkId, &mut Line)> {
        self.0.get_mut(&key).map(|(link, line)| (*link, line))
    }

    pub(super) fn remove(&mut self, link: LinkId) {
        self.0.remove(&link.number());
    }
}
