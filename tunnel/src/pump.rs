//! The device's loop: packets between its TUN interface and one session.

use std::{
    io,
    sync::{Arc, atomic::AtomicU64},
};

use ipnet::IpNet;
use tokio::sync::watch;

use crate::{
    capsule::AssignedAddress,
    session::{CloseReason, Packets},
    tun::Tun,
};

/// What may pass. By default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Out: sources; in: destinations. In also passes multicast and link-local to none.
    pub addresses: Vec<IpNet>,
}

impl Policy {
    /// The addresses that the gateway assigned; refused requests (unspecified address) are left out.
    #[must_use]
    pub fn from_assigned(_assigned: &[AssignedAddress]) -> Self {
        todo!()
    }
}

/// What passed and what did not, for status and metrics. Relaxed atomics: read them at any time.
#[derive(Debug, Default)]
pub struct Counters {
    /// Packets into the tunnel.
    pub tx_packets: AtomicU64,
    /// Bytes of IP into the tunnel.
    pub tx_bytes: AtomicU64,
    /// Packets out of the tunnel.
    pub rx_packets: AtomicU64,
    /// Bytes of IP out of the tunnel.
    pub rx_bytes: AtomicU64,
    /// Dropped: not an IP packet, or cut.
    pub malformed: AtomicU64,
    /// Dropped on the way in or out: the address is not assigned.
    pub foreign_address: AtomicU64,
    /// Dropped with ICMP to the sender: larger than the path carries.
    pub too_large: AtomicU64,
    /// Dropped: the interface did not take it.
    pub interface: AtomicU64,
}

/// Moves packets both ways until the tunnel or the interface is gone.
pub async fn run(_tun: &Tun, _packets: Packets, _policy: watch::Receiver<Policy>, _counters: Arc<Counters>) -> PumpEnd {
    todo!()
}

/// Why no packets move any more.
#[derive(Debug, thiserror::Error)]
pub enum PumpEnd {
    /// The tunnel is gone.
    #[error("tunnel: {0}")]
    Session(#[source] CloseReason),
    /// The interface is gone.
    #[error("tunnel interface: {0}")]
    Tun(#[source] io::Error),
}
