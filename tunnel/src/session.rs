//! An established tunnel: packets, addresses, routes, and its end.

mod driver;
mod packets;

use std::sync::Arc;

use tokio::sync::mpsc;

pub use packets::{MAX_BATCH, Packets, SendError};

use crate::{
    capsule::{AssignedAddress, Capsule, RequestedAddress},
    exchange::Inbound,
    http3::{Code, stream::ControlEvent},
    link::{Link, Owner},
    routes::{IpRange, normalize},
};
use driver::Command;

/// An established tunnel. Dropping it closes the tunnel with [`Code::NO_ERROR`].
#[derive(Debug)]
pub struct Session {
    owner: Owner,
    packets: Packets,
    control: Control,
    events: mpsc::Receiver<Event>,
}

impl Session {
    /// The packets' half: cheap to clone, usable from any task.
    #[must_use]
    pub fn packets(&self) -> Packets {
        self.packets.clone()
    }

    /// What can be told to the peer: cheap to clone, usable from any task.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits for what the peer says. Cancel safe. After [`Event::Closed`] it gives the same event again.
    pub async fn next_event(&mut self) -> Event {
        match self.events.recv().await {
            Some(event) => event,
            None => Event::Closed(self.owner.0.closed().await),
        }
    }

    /// Closes the tunnel and its connection. The peer sees `reason`, at most 256 bytes of it.
    pub fn close(&self, code: Code, reason: &str) {
        self.control.close(code, reason);
    }

    /// Takes over from the handshake.
    pub(crate) fn start(owner: Owner, streams: Streams) -> Self {
        let link = Arc::clone(&owner.0);
        let stream = u64::from(streams.outbound.id());
        let packets = Packets::new(Arc::clone(&link), stream);
        let (commands, events) = driver::start(Arc::clone(&link), packets.clone(), streams);
        Self { owner, packets, control: Control { link, commands }, events }
    }
}

/// What the handshake leaves.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) is_server: bool,
    /// The request's stream.
    pub(crate) inbound: Inbound,
    pub(crate) outbound: quinn::SendStream,
    /// This side's control stream.
    pub(crate) control: quinn::SendStream,
    /// What comes on the peer's.
    pub(crate) peer: mpsc::Receiver<ControlEvent>,
}

/// Tells the peer about addresses and routes. Each message replaces what the former one of its kind said.
#[derive(Debug, Clone)]
pub struct Control {
    link: Arc<Link>,
    commands: mpsc::Sender<Command>,
}

impl Control {
    /// Sends ADDRESS_ASSIGN: all addresses that the peer has from now on.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn assign_addresses(&self, addresses: Vec<AssignedAddress>) -> Result<(), CloseReason> {
        self.tell(Command::Capsule(Capsule::AddressAssign(addresses))).await
    }

    /// Sends ADDRESS_REQUEST.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn request_addresses(&self, addresses: Vec<RequestedAddress>) -> Result<(), CloseReason> {
        self.tell(Command::Capsule(Capsule::AddressRequest(addresses))).await
    }

    /// Sends ROUTE_ADVERTISEMENT: all ranges that the peer reaches through this side from now on, put in
    /// [normal form](normalize).
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn advertise_routes(&self, routes: Vec<IpRange>) -> Result<(), CloseReason> {
        self.tell(Command::Capsule(Capsule::RouteAdvertisement(normalize(routes)))).await
    }

    /// Sends GOAWAY: this side is about to leave, the peer should move to another gateway. The session goes on until it
    /// is closed.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn go_away(&self) -> Result<(), CloseReason> {
        self.tell(Command::GoAway).await
    }

    /// As [`Session::close`].
    pub fn close(&self, code: Code, reason: &str) {
        self.link.close(CloseReason::Local, code, reason);
    }

    /// Waits until the tunnel is gone.
    pub async fn closed(&self) -> CloseReason {
        self.link.closed().await
    }

    async fn tell(&self, command: Command) -> Result<(), CloseReason> {
        if let Some(reason) = self.link.ended() {
            return Err(reason);
        }
        match self.commands.send(command).await {
            Ok(()) => Ok(()),
            Err(_) => Err(self.link.closed().await),
        }
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
    /// The peer ended the TLS handshake, or did not accept this side's certificate (RFC 8446 §6).
    #[error("refused in the TLS handshake: {text}")]
    TlsAlert {
        /// The alert's number, 44 for a revoked certificate.
        alert: u8,
        /// Its name.
        text: String,
    },
    /// The connection failed otherwise.
    #[error("connection failed: {0}")]
    Transport(String),
}
