//! An established tunnel.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use h2::{Ping, PingPong, RecvStream};
use tokio::time::Instant;

use super::{
    link::{Link, Owner},
    reason,
    receiver::Receiver,
    sender::Sender,
};
use crate::{
    capsule::{AssignedAddress, Capsule, RequestedAddress},
    http3::Code,
    routes::{IpRange, normalize},
    session::CloseReason,
};

/// Bytes that wait when no further capsule is let in: some thousand of them, and the peer takes none.
const MAX_WAITING: usize = 1 << 20;

/// An established tunnel: its parts, for tasks of their own. Dropping the sender or the receiver closes the tunnel.
#[derive(Debug)]
pub struct Http2Tunnel {
    /// Packets out.
    pub sender: Sender,
    /// Packets and events in.
    pub receiver: Receiver,
    /// Whether the peer lives.
    pub pinger: Pinger,
    /// What can be told to the peer.
    pub control: Control,
}

impl Http2Tunnel {
    /// Takes over from the handshake.
    pub(super) fn new(owner: Owner, inbound: RecvStream, pings: Pings) -> Self {
        let link = Arc::clone(&owner.0);
        Self {
            sender: Sender::new(Owner(Arc::clone(&link))),
            receiver: Receiver::new(owner, inbound),
            pinger: Pinger { link: Arc::clone(&link), pings },
            control: Control { link },
        }
    }
}

/// Tells the peer about addresses and routes, and ends the tunnel: cheap to clone, usable from any task.
///
/// Each capsule replaces what the former one of its kind said. It goes behind the packets that wait, whatever the room;
/// when 1 MiB waits the peer takes nothing any more, and the tunnel is closed instead.
#[derive(Debug, Clone)]
pub struct Control {
    link: Arc<Link>,
}

impl Control {
    /// Sends ADDRESS_ASSIGN: all addresses that the peer has from now on.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn assign_addresses(&self, addresses: Vec<AssignedAddress>) -> Result<(), CloseReason> {
        self.tell(&Capsule::AddressAssign(addresses))
    }

    /// Sends ADDRESS_REQUEST.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn request_addresses(&self, addresses: Vec<RequestedAddress>) -> Result<(), CloseReason> {
        self.tell(&Capsule::AddressRequest(addresses))
    }

    /// Sends ROUTE_ADVERTISEMENT: all ranges that the peer reaches through this side from now on, put in
    /// [normal form](normalize).
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn advertise_routes(&self, routes: Vec<IpRange>) -> Result<(), CloseReason> {
        self.tell(&Capsule::RouteAdvertisement(normalize(routes)))
    }

    /// Sends GOAWAY: this gateway is about to leave, the device should move to another one. The tunnel goes on until it
    /// is closed. HTTP/2 gives a client nothing to say here, so on its side this does nothing.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub fn go_away(&self) -> Result<(), CloseReason> {
        if let Some(reason) = self.link.ended() {
            return Err(reason);
        }
        self.link.go_away();
        Ok(())
    }

    /// Closes the tunnel and its connection; packets that wait are dropped. The peer sees the error code of HTTP/2 that
    /// comes closest to `code`. HTTP/2 carries no words, so `reason` goes to this side's log only.
    pub fn close(&self, code: Code, reason: &str) {
        log::debug!("closing the tunnel: {code} {reason:?}");
        self.link.close(CloseReason::Local, reason::from_code(code));
    }

    /// Why the tunnel is gone, if it is.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.link.ended()
    }

    /// Waits until the tunnel is gone. Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        self.link.ending().await
    }

    fn tell(&self, capsule: &Capsule) -> Result<(), CloseReason> {
        if self.link.backlog.waiting() > MAX_WAITING {
            let reason = CloseReason::Transport("the peer does not take what it is told".into());
            self.link.close(reason, h2::Reason::ENHANCE_YOUR_CALM);
        }
        let mut out = Vec::new();
        capsule.encode(&mut out);
        self.link.send(out.into())
    }
}

/// Asks the peer whether it lives, and how far away it is.
#[derive(Debug)]
pub struct Pinger {
    link: Arc<Link>,
    pings: Pings,
}

impl Pinger {
    /// Sends a PING, unless one is on its way, and waits for the answer; how long that took. It passes by the packets that
    /// wait here, not by those that the kernel has already. Cancel safe: the next call waits for the same answer.
    ///
    /// Without an answer it waits until the connection breaks: bound it in time.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn ping(&mut self) -> Result<Duration, CloseReason> {
        match (poll_fn(|cx| self.pings.poll(cx)).await, self.link.ended()) {
            (Ok(time), None) => Ok(time),
            (_, Some(reason)) => Err(reason),
            (Err(_), None) => Err(self.link.ending().await),
        }
    }

    /// As [`ping`](Self::ping), for a task that waits for other things as well. After the end it is pending for ever.
    pub fn poll_ping(&mut self, cx: &mut Context<'_>) -> Poll<Duration> {
        match ready!(self.pings.poll(cx)) {
            Ok(time) => Poll::Ready(time),
            Err(_) => Poll::Pending,
        }
    }
}

/// PING, one at a time.
#[derive(Debug)]
pub(super) struct Pings {
    frames: PingPong,
    /// When the one was sent whose answer is awaited.
    sent: Option<Instant>,
}

impl Pings {
    pub(super) fn new(frames: PingPong) -> Self {
        Self { frames, sent: None }
    }

    /// Sends one unless one is on its way; the time to its answer.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Duration, h2::Error>> {
        let sent = match self.sent {
            Some(sent) => sent,
            None => {
                let now = Instant::now();
                self.frames.send_ping(Ping::opaque())?;
                *self.sent.insert(now)
            }
        };
        ready!(self.frames.poll_pong(cx))?;
        self.sent = None;
        Poll::Ready(Ok(sent.elapsed()))
    }
}
