//! The packets' half of a tunnel.

use std::{
    collections::VecDeque,
    future::Future,
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::{BufMut, Bytes, BytesMut};
use quinn::SendDatagramError;
use tokio::sync::Notify;

use super::CloseReason;
use crate::{
    http3::datagram::{self, IP_CONTEXT},
    link::Link,
};

/// The most packets that [`Packets::recv_batch`] adds at once.
pub const MAX_BATCH: usize = 128;

/// Packets in capsules that wait for [`Packets::recv_batch`].
const MAX_FROM_CAPSULES: usize = 64;

/// Sends and receives IP packets. Best effort as IP is: what does not fit the send buffer pushes out the oldest.
#[derive(Debug, Clone)]
pub struct Packets(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    link: Arc<Link>,
    stream: u64,
    /// What comes before each packet.
    prefix: Vec<u8>,
    max_packet_size: AtomicUsize,
    /// Packets that came in DATAGRAM capsules.
    from_capsules: Mutex<VecDeque<Bytes>>,
    capsule_came: Notify,
}

impl Packets {
    /// Sends one IP packet.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] when it exceeds [`max_packet_size`](Self::max_packet_size), [`SendError::Closed`] when
    /// the tunnel is gone.
    pub fn send(&self, packet: &[u8]) -> Result<(), SendError> {
        let max = self.max_packet_size();
        // MTU discovery may have found more since.
        if packet.len() > max && packet.len() > self.refresh_max_packet_size() {
            return Err(SendError::TooLarge { max: self.max_packet_size() });
        }
        let mut datagram = BytesMut::with_capacity(self.0.prefix.len() + packet.len());
        datagram.put_slice(&self.0.prefix);
        datagram.put_slice(packet);
        match self.0.link.connection.send_datagram(datagram.freeze()) {
            Ok(()) => Ok(()),
            Err(SendDatagramError::TooLarge) => Err(SendError::TooLarge { max: self.refresh_max_packet_size() }),
            Err(_) => Err(SendError::Closed(self.0.link.reason())),
        }
    }

    /// Waits for packets and appends all that are there, at most [`MAX_BATCH`], to `packets`; the number of them. Cancel
    /// safe. They come as the peer sent them: check them with [`crate::packet`].
    ///
    /// # Errors
    /// When the tunnel is gone and every packet received before has been taken.
    pub async fn recv_batch(&self, packets: &mut Vec<Bytes>) -> Result<usize, CloseReason> {
        let before = packets.len();
        loop {
            tokio::select! {
                datagram = self.0.link.connection.read_datagram() => match datagram {
                    Ok(datagram) => self.take(datagram, packets),
                    Err(_) => return Err(self.0.link.reason()),
                },
                () = self.0.capsule_came.notified() => {
                    let mut waiting = self.0.from_capsules.lock().unwrap_or_else(PoisonError::into_inner);
                    packets.extend(waiting.drain(..));
                }
            }
            while packets.len() - before < MAX_BATCH {
                let Some(datagram) = self.ready_datagram() else {
                    break;
                };
                self.take(datagram, packets);
            }
            if packets.len() > before {
                return Ok(packets.len() - before);
            }
        }
    }

    /// The largest IP packet in bytes that one datagram of the path carries now. Takes no lock.
    #[must_use]
    pub fn max_packet_size(&self) -> usize {
        self.0.max_packet_size.load(Ordering::Relaxed)
    }

    /// As [`max_packet_size`](Self::max_packet_size), asking the connection, which takes its lock.
    pub fn refresh_max_packet_size(&self) -> usize {
        let datagram = self.0.link.connection.max_datagram_size().unwrap_or_default();
        let size = datagram.saturating_sub(self.0.prefix.len());
        self.0.max_packet_size.store(size, Ordering::Relaxed);
        size
    }

    pub(crate) fn new(link: Arc<Link>, stream: u64) -> Self {
        let mut prefix = Vec::with_capacity(datagram::prefix_size(stream));
        datagram::write_prefix(stream, &mut prefix);
        let packets = Self(Arc::new(Inner {
            link,
            stream,
            prefix,
            max_packet_size: AtomicUsize::new(0),
            from_capsules: Mutex::default(),
            capsule_came: Notify::new(),
        }));
        packets.refresh_max_packet_size();
        packets
    }

    /// A packet that came in a DATAGRAM capsule.
    pub(crate) fn push_from_capsule(&self, payload: &Bytes) {
        let Some((IP_CONTEXT, size)) = crate::varint::read(payload) else {
            return;
        };
        let mut waiting = self.0.from_capsules.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.len() < MAX_FROM_CAPSULES {
            waiting.push_back(payload.slice(size..));
            self.0.capsule_came.notify_one();
        }
    }

    fn ready_datagram(&self) -> Option<Bytes> {
        let read = pin!(self.0.link.connection.read_datagram());
        match read.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(datagram)) => Some(datagram),
            _ => None,
        }
    }

    /// Adds a datagram's packet. Those of other streams and contexts are dropped (RFC 9297 §2.1, RFC 9484 §6).
    fn take(&self, datagram: Bytes, packets: &mut Vec<Bytes>) {
        match datagram::read(datagram) {
            Ok(Some(datagram)) if datagram.stream == self.0.stream && datagram.context == IP_CONTEXT => {
                packets.push(datagram.payload);
            }
            Ok(_) => {}
            Err(error) => self.0.link.fail(&error),
        }
    }
}

/// Why a packet was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The packet is larger than the path carries; tell its sender with [`crate::packet::icmp`].
    #[error("packet too large: the path carries {max} bytes")]
    TooLarge {
        /// The largest packet in bytes.
        max: usize,
    },
    /// The tunnel is gone.
    #[error("tunnel closed: {0}")]
    Closed(CloseReason),
}
