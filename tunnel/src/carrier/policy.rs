//! What may pass, and what passed.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{capsule::AssignedAddress, packet::AddressSet};

/// What may pass. By default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// The machine's addresses in the tunnel: sources of what goes out, destinations of what comes in.
    pub addresses: AddressSet,
}

impl Policy {
    /// The addresses that the gateway assigned; refused requests are left out.
    #[must_use]
    pub fn from_assigned(assigned: &[AssignedAddress]) -> Self {
        let granted = assigned.iter().filter(|address| !address.is_refusal());
        Self { addresses: granted.map(|address| address.prefix).collect() }
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
    /// Dropped: not an IP packet, or not a whole one.
    pub malformed: AtomicU64,
    /// Dropped on the way out: the source is not an assigned address. The kernel's own multicast from link-local
    /// addresses counts here.
    pub foreign_source: AtomicU64,
    /// Dropped on the way in: the destination is not an assigned address.
    pub foreign_destination: AtomicU64,
    /// Dropped with ICMP to the sender: larger than the path carries.
    pub too_large: AtomicU64,
    /// Dropped: the interface did not take them, for it is down.
    pub interface: AtomicU64,
}

impl Counters {
    /// Packets that passed, both ways together.
    #[must_use]
    pub fn packets(&self) -> u64 {
        self.tx_packets.load(Ordering::Relaxed) + self.rx_packets.load(Ordering::Relaxed)
    }
}

pub(super) fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
