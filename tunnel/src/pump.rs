//! The device's loop: packets between its TUN interface and one session.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use tokio::{sync::watch, task::JoinSet};

use crate::{
    capsule::AssignedAddress,
    packet::{
        AddressSet, Header, IPV6_MIN_MTU,
        icmp::{self, RateLimit},
    },
    session::{CloseReason, Packets, SendError},
    tun::{Tun, TunReader, TunWriter, is_gone},
};

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
    /// Batches of which the interface did not take a packet: it is down.
    pub interface: AtomicU64,
}

/// Moves packets both ways until the tunnel or the interface is gone. Dropping the future stops it.
///
/// While the path carries less than 1280 bytes ([`Packets::max_packet_size`]) IPv6 cannot work: RFC 9484 §7.1 asks to end
/// such a tunnel, which is the program's to decide.
pub async fn run(tun: &Tun, packets: Packets, policy: watch::Receiver<Policy>, counters: Arc<Counters>) -> PumpEnd {
    let outbound = Outbound {
        packets: packets.clone(),
        policy: policy.clone(),
        counters: Arc::clone(&counters),
        answers: tun.writer(),
        limit: RateLimit::new(ICMP_PER_SECOND, Instant::now()),
        narrow: false,
    };
    let inbound = Inbound { packets, policy, counters, writer: tun.writer() };
    let mut loops = JoinSet::new();
    loops.spawn(outbound.run(tun.reader()));
    loops.spawn(inbound.run());
    match loops.join_next().await {
        Some(Ok(end)) => end,
        _ => PumpEnd::Tun(io::Error::other("the loop of packets broke down")),
    }
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

const ICMP_PER_SECOND: u32 = 100;

struct Outbound {
    packets: Packets,
    policy: watch::Receiver<Policy>,
    counters: Arc<Counters>,
    answers: TunWriter,
    limit: RateLimit,
    /// Whether it was said that IPv6 does not fit the path.
    narrow: bool,
}

impl Outbound {
    async fn run(mut self, mut reader: TunReader) -> PumpEnd {
        loop {
            let batch = match reader.recv_batch().await {
                Ok(batch) => batch,
                Err(error) => return PumpEnd::Tun(error),
            };
            if let Err(reason) = self.forward(batch) {
                return PumpEnd::Session(reason);
            }
            if self.answers.is_empty() {
                continue;
            }
            if let Err(error) = self.answers.flush().await {
                add(&self.counters.interface, 1);
                if is_gone(&error) {
                    return PumpEnd::Tun(error);
                }
            }
        }
    }

    fn forward<'a>(&mut self, batch: impl Iterator<Item = &'a mut [u8]>) -> Result<(), CloseReason> {
        let policy = self.policy.borrow();
        for packet in batch {
            let Some(header) = Header::parse(packet) else {
                add(&self.counters.malformed, 1);
                continue;
            };
            if !policy.addresses.contains(header.source) {
                add(&self.counters.foreign_source, 1);
                continue;
            }
            match self.packets.send(packet) {
                Ok(()) => {
                    add(&self.counters.tx_packets, 1);
                    add(&self.counters.tx_bytes, packet.len());
                }
                Err(SendError::TooLarge { max }) => {
                    add(&self.counters.too_large, 1);
                    if header.source.is_ipv6() && max < IPV6_MIN_MTU && !self.narrow {
                        self.narrow = true;
                        log::warn!("the path carries packets of {max} bytes only, IPv6 needs {IPV6_MIN_MTU}");
                    }
                    // The kernel would take a packet from an address of its own for a forgery.
                    let answer = icmp::error(packet, icmp::Cause::TooLarge { mtu: max }, header.destination);
                    if let Some(answer) = answer.filter(|_| self.limit.take(Instant::now())) {
                        self.answers.push(&answer);
                    }
                }
                Err(SendError::Closed(reason)) => return Err(reason),
            }
        }
        Ok(())
    }
}

struct Inbound {
    packets: Packets,
    policy: watch::Receiver<Policy>,
    counters: Arc<Counters>,
    writer: TunWriter,
}

impl Inbound {
    async fn run(mut self) -> PumpEnd {
        let mut batch = Vec::new();
        loop {
            batch.clear();
            if let Err(reason) = self.packets.recv_batch(&mut batch).await {
                return PumpEnd::Session(reason);
            }
            self.take(&batch);
            if self.writer.is_empty() {
                continue;
            }
            if let Err(error) = self.writer.flush().await {
                add(&self.counters.interface, 1);
                if is_gone(&error) {
                    return PumpEnd::Tun(error);
                }
            }
        }
    }

    fn take(&mut self, batch: &[bytes::Bytes]) {
        let policy = self.policy.borrow();
        for packet in batch {
            let Some(header) = Header::parse(packet) else {
                add(&self.counters.malformed, 1);
                continue;
            };
            if !policy.addresses.contains(header.destination) {
                add(&self.counters.foreign_destination, 1);
                continue;
            }
            add(&self.counters.rx_packets, 1);
            add(&self.counters.rx_bytes, packet.len());
            self.writer.push(packet);
        }
    }
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}
