//! One link of a tunnel: a QUIC connection with a socket of its own, or a TLS connection over TCP.

use std::{
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::ConnectionHandle;

use crate::{
    capsule::RequestedAddress,
    http3::Code,
    hub::Hub,
    session::{Event, SendError},
    udp::UdpSocket,
};

/// Names a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a link runs over, its tunnel open.
#[derive(Debug)]
pub enum Way {
    /// QUIC.
    Http3(Box<Hub>, ConnectionHandle),
}

pub(super) struct Link {
    way: Way,
    events: std::collections::VecDeque<Event>,
    is_over: bool,
}

impl Link {
    pub(super) fn new(way: Way) -> Self {
        Self { way, events: std::collections::VecDeque::new(), is_over: false }
    }

    /// Takes what came; whether anything did.
    pub(super) fn receive(&mut self, now: Instant, packets: &mut Vec<Bytes>) -> bool {
        let Self { way: Way::Http3(hub, handle), events, is_over } = self;
        let received = match hub.receive(now) {
            Ok(received) => received,
            Err(error) => {
                log::debug!("the socket of a link gives nothing: {error}");
                0
            }
        };
        hub.handle_timeout(now);
        let mut is_busy = received > 0;
        while hub.next_changed(now).is_some() {
            is_busy = true;
            let Some(session) = hub.session(*handle) else { break };
            while let Some(packet) = session.recv() {
                packets.push(packet);
            }
            while let Some(event) = session.poll_event() {
                events.push_back(event);
            }
        }
        *is_over = hub.is_empty();
        is_busy
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(super) fn send(&mut self, packet: Bytes, now: Instant) -> Result<(), SendError> {
        let Way::Http3(hub, handle) = &mut self.way;
        hub.send(*handle, packet, now)
    }

    pub(super) fn transmit(&mut self, now: Instant) {
        let Way::Http3(hub, _) = &mut self.way;
        hub.transmit(now);
    }

    pub(super) fn close(&mut self, code: Code, reason: &str, now: Instant) {
        let Way::Http3(hub, handle) = &mut self.way;
        if let Some(session) = hub.session(*handle) {
            session.close(code, reason, now);
        }
    }

    pub(super) fn rebind(&mut self, socket: UdpSocket, now: Instant) {
        let Way::Http3(hub, _) = &mut self.way;
        hub.rebind(socket, now);
    }

    pub(super) fn set_keepalive(&mut self, interval: Option<Duration>) {
        let Way::Http3(hub, handle) = &mut self.way;
        if let Some(session) = hub.session(*handle) {
            session.set_keepalive(interval);
        }
    }

    pub(super) fn ping(&mut self) {
        let Way::Http3(hub, handle) = &mut self.way;
        if let Some(session) = hub.session(*handle) {
            session.ping();
        }
    }

    pub(super) fn request_addresses(&mut self, addresses: Vec<RequestedAddress>) {
        let Way::Http3(hub, handle) = &mut self.way;
        if let Some(session) = hub.session(*handle) {
            session.request_addresses(addresses);
        }
    }

    /// Packets that are not sent yet.
    pub(super) fn take_waiting(&mut self) -> Vec<Bytes> {
        let Way::Http3(hub, handle) = &mut self.way;
        hub.session(*handle).map(|session| session.take_waiting(Instant::now())).unwrap_or_default()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let Way::Http3(hub, _) = &self.way;
        hub.poll_timeout()
    }

    /// Whether [`receive`](Self::receive) or [`transmit`](Self::transmit) may get on.
    pub(super) fn poll_ready(&self, context: &mut Context<'_>) -> Poll<()> {
        let Way::Http3(hub, _) = &self.way;
        hub.poll_ready(context)
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.is_over && self.events.is_empty()
    }
}
