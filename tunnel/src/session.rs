//! An established tunnel: packets, addresses, routes, and its end.

use bytes::Bytes;

use crate::{
    capsule::{AssignedAddress, RequestedAddress},
    http3::Code,
    routes::IpRange,
};

/// An established tunnel. Dropping it closes the tunnel with [`Code::NO_ERROR`].
#[derive(Debug)]
pub struct Session {}

impl Session {
    /// The packets' half: cheap to clone, usable from any task.
    #[must_use]
    pub fn packets(&self) -> Packets {
        todo!()
    }

    /// What can be told to the peer: cheap to clone, usable from any task.
    #[must_use]
    pub fn control(&self) -> Control {
        todo!()
    }

    /// Waits for what the peer says. Cancel safe. After [`Event::Closed`] it gives the same event again.
    pub async fn next_event(&mut self) -> Event {
        todo!()
    }

    /// Closes the tunnel and its connection. `reason` is seen by the peer, at most 256 bytes of it.
    pub fn close(&self, _code: Code, _reason: &str) {
        todo!()
    }
}

/// Sends and receives IP packets. Best effort as IP is: what does not fit the send buffer pushes out the oldest.
#[derive(Debug, Clone)]
pub struct Packets {}

impl Packets {
    /// Sends one IP packet.
    ///
    /// # Errors
    /// [`SendError::TooLarge`] when it exceeds [`max_packet_size`](Self::max_packet_size), [`SendError::Closed`]
    /// when the tunnel is gone.
    pub fn send(&self, _packet: &[u8]) -> Result<(), SendError> {
        todo!()
    }

    /// Waits for packets and appends all that are there, at most 128, to `packets`; the number of them. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is gone and every packet received before has been taken.
    pub async fn recv_batch(&self, _packets: &mut Vec<Bytes>) -> Result<usize, CloseReason> {
        todo!()
    }

    /// The largest IP packet in bytes that one datagram of the path carries now. Takes no lock.
    #[must_use]
    pub fn max_packet_size(&self) -> usize {
        todo!()
    }
}

/// Tells the peer about addresses and routes. Each message replaces what the former one of its kind said.
#[derive(Debug, Clone)]
pub struct Control {}

impl Control {
    /// Sends ADDRESS_ASSIGN: all addresses that the peer has from now on.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn assign_addresses(&self, _addresses: Vec<AssignedAddress>) -> Result<(), CloseReason> {
        todo!()
    }

    /// Sends ADDRESS_REQUEST.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn request_addresses(&self, _addresses: Vec<RequestedAddress>) -> Result<(), CloseReason> {
        todo!()
    }

    /// Sends ROUTE_ADVERTISEMENT: all ranges that the peer reaches through this side from now on. Sorts them and merges
    /// those that overlap, as RFC 9484 §4.7.3 asks.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn advertise_routes(&self, _routes: Vec<IpRange>) -> Result<(), CloseReason> {
        todo!()
    }

    /// Sends GOAWAY: this side is about to leave, the peer should move to another gateway. The session goes on until it
    /// is closed.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn go_away(&self) -> Result<(), CloseReason> {
        todo!()
    }

    /// As [`Session::close`].
    pub fn close(&self, _code: Code, _reason: &str) {
        todo!()
    }
}

/// What the peer says.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// These are all addresses that this side has now: they replace the former ones.
    AddressesAssigned(Vec<AssignedAddress>),
    /// The peer asks for addresses; answer with [`Control::assign_addresses`].
    AddressesRequested(Vec<RequestedAddress>),
    /// These are all ranges that the peer reaches now: they replace the former ones.
    RoutesAdvertised(Vec<IpRange>),
    /// The peer is about to leave: set up another session elsewhere while this one still works.
    GoAway,
    /// The tunnel is gone.
    Closed(CloseReason),
}

/// Why a tunnel is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The peer closed it, with its reason.
    #[error("closed by the peer: {code} {reason:?}")]
    Peer {
        /// The HTTP/3 code.
        code: Code,
        /// The peer's words, empty if it gave none.
        reason: String,
    },
    /// The peer ended the tunnel's stream in order.
    #[error("ended by the peer")]
    Ended,
    /// The peer broke the protocol, so this side closed the tunnel.
    #[error("protocol error of the peer: {code}: {reason}")]
    Protocol {
        /// The code that the peer was told.
        code: Code,
        /// What it did.
        reason: String,
    },
    /// Nothing was heard from the peer for the idle timeout.
    #[error("nothing heard from the peer for too long")]
    TimedOut,
    /// The connection failed otherwise.
    #[error("connection failed: {0}")]
    Transport(String),
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
