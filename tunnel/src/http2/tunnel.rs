//! An established tunnel.

use std::{future::poll_fn, sync::Arc, time::Duration};

use h2::{Ping, PingPong, RecvStream};
use tokio::{sync::Mutex, time::Instant};

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

/// An established tunnel. Dropping it closes the tunnel.
#[derive(Debug)]
pub struct Http2Tunnel {
    sender: Sender,
    receiver: Receiver,
    control: Control,
}

impl Http2Tunnel {
    /// Its parts, for tasks of their own. Dropping the sender or the receiver closes the tunnel.
    #[must_use]
    pub fn split(self) -> (Sender, Receiver, Control) {
        (self.sender, self.receiver, self.control)
    }

    /// What can be told to the peer.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// As [`Control::ping`].
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn ping(&self) -> Result<Duration, CloseReason> {
        self.control.ping().await
    }

    /// As [`Control::close`].
    pub fn close(&self, code: Code, reason: &str) {
        self.control.close(code, reason);
    }

    /// Takes over from the handshake.
    pub(super) fn new(owner: Owner, inbound: RecvStream, pings: Pings) -> Self {
        let link = Arc::clone(&owner.0);
        Self {
            sender: Sender::new(Owner(Arc::clone(&link))),
            receiver: Receiver::new(owner, inbound),
            control: Control { link, pings: Arc::new(Mutex::new(pings)) },
        }
    }
}

/// Tells the peer about addresses and routes, and asks whether it lives: cheap to clone, usable from any task. Each
/// capsule replaces what the former one of its kind said; it goes through the same queue as packets and waits for room as
/// they do.
#[derive(Debug, Clone)]
pub struct Control {
    link: Arc<Link>,
    pings: Arc<Mutex<Pings>>,
}

impl Control {
    /// Sends ADDRESS_ASSIGN: all addresses that the peer has from now on. Cancel safe: it is sent as a whole or not.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn assign_addresses(&self, addresses: Vec<AssignedAddress>) -> Result<(), CloseReason> {
        self.tell(&Capsule::AddressAssign(addresses)).await
    }

    /// Sends ADDRESS_REQUEST. Cancel safe: it is sent as a whole or not.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn request_addresses(&self, addresses: Vec<RequestedAddress>) -> Result<(), CloseReason> {
        self.tell(&Capsule::AddressRequest(addresses)).await
    }

    /// Sends ROUTE_ADVERTISEMENT: all ranges that the peer reaches through this side from now on, put in
    /// [normal form](normalize). Cancel safe: it is sent as a whole or not.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn advertise_routes(&self, routes: Vec<IpRange>) -> Result<(), CloseReason> {
        self.tell(&Capsule::RouteAdvertisement(normalize(routes))).await
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

    /// Waits until the tunnel is gone. Cancel safe.
    pub async fn closed(&self) -> CloseReason {
        self.link.ending().await
    }

    /// Sends a PING and waits for its answer; how long that took. It passes by the packets that wait for the socket, not
    /// by those that TCP has already. Cancel safe: when the future is dropped, the next call waits for the answer to the
    /// same PING. Calls wait for each other.
    ///
    /// Without an answer it waits until the connection breaks: bound it in time.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn ping(&self) -> Result<Duration, CloseReason> {
        let mut pings = self.pings.lock().await;
        match (pings.ping().await, self.link.ended()) {
            (Ok(time), None) => Ok(time),
            (_, Some(reason)) => Err(reason),
            (Err(_), None) => Err(self.link.ending().await),
        }
    }

    async fn tell(&self, capsule: &Capsule) -> Result<(), CloseReason> {
        let mut out = Vec::new();
        capsule.encode(&mut out);
        self.link.queue.has_room().await;
        self.link.send(out.into())
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

    /// The time to the answer. Cancel safe: the next call waits for the same answer.
    pub(super) async fn ping(&mut self) -> Result<Duration, h2::Error> {
        let sent = match self.sent {
            Some(sent) => sent,
            None => {
                let now = Instant::now();
                self.frames.send_ping(Ping::opaque())?;
                *self.sent.insert(now)
            }
        };
        poll_fn(|cx| self.frames.poll_pong(cx)).await?;
        self.sent = None;
        Ok(sent.elapsed())
    }
}
