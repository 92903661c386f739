//! One link of a tunnel: a QUIC connection with a socket of its own, or a TLS connection over TCP.

use std::{
    collections::VecDeque,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use quinn_proto::ConnectionHandle;
use tokio::sync::mpsc;

use crate::{
    capsule::RequestedAddress,
    http3::Code,
    hub::Hub,
    lane::{Incoming, Lane},
    session::{Event, PREFIX, SendError},
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
    /// TCP.
    Http2(Lane, mpsc::Receiver<Incoming>),
}

pub(super) struct Link {
    way: Way,
    events: VecDeque<Event>,
    is_over: bool,
    /// What came while it was looked whether something had.
    first: Option<Incoming>,
}

impl Link {
    pub(super) fn new(way: Way) -> Self {
        Self { way, events: VecDeque::new(), is_over: false, first: None }
    }

    /// Takes what came; whether anything did.
    pub(super) fn receive(&mut self, now: Instant, packets: &mut Vec<Bytes>) -> bool {
        match &mut self.way {
            Way::Http3(hub, handle) => {
                let received = hub.receive(now).unwrap_or_else(|error| {
                    log::debug!("the socket of a link gives nothing: {error}");
                    0
                });
                hub.handle_timeout(now);
                let mut is_busy = received > 0;
                while hub.next_changed(now).is_some() {
                    is_busy = true;
                    let Some(session) = hub.session(*handle) else { break };
                    packets.extend(std::iter::from_fn(|| session.recv()));
                    self.events.extend(std::iter::from_fn(|| session.poll_event()));
                }
                self.is_over = hub.is_empty();
                is_busy
            }
            Way::Http2(_, incoming) => {
                let mut is_busy = false;
                while let Some(next) = self.first.take().or_else(|| incoming.try_recv().ok()) {
                    is_busy = true;
                    match next {
                        Incoming::Packets(more) => packets.extend(more),
                        Incoming::Event(event) => {
                            self.is_over = matches!(event, Event::Closed(_));
                            self.events.push_back(event);
                        }
                    }
                }
                is_busy
            }
        }
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Queues a packet behind [`PREFIX`].
    pub(super) fn send(&mut self, packet: Bytes, now: Instant) -> Result<(), SendError> {
        match &mut self.way {
            Way::Http3(hub, handle) => hub.send(*handle, packet, now),
            Way::Http2(lane, _) => {
                lane.send(packet.slice(PREFIX.len()..), now);
                Ok(())
            }
        }
    }

    pub(super) fn transmit(&mut self, now: Instant) {
        if let Way::Http3(hub, _) = &mut self.way {
            hub.transmit(now);
        }
    }

    pub(super) fn close(&mut self, code: Code, reason: &str, now: Instant) {
        match &mut self.way {
            Way::Http3(hub, handle) => {
                if let Some(session) = hub.session(*handle) {
                    session.close(code, reason, now);
                }
            }
            Way::Http2(lane, _) => {
                lane.control().close(code, reason);
                self.is_over = true;
            }
        }
    }

    /// Only QUIC outlives its socket.
    pub(super) fn rebind(&mut self, socket: UdpSocket, now: Instant) {
        if let Way::Http3(hub, _) = &mut self.way {
            hub.rebind(socket, now);
        }
    }

    pub(super) fn set_keepalive(&mut self, interval: Option<Duration>) {
        match &mut self.way {
            Way::Http3(hub, handle) => {
                if let Some(session) = hub.session(*handle) {
                    session.set_keepalive(interval);
                }
            }
            Way::Http2(lane, _) => lane.set_keepalive(interval),
        }
    }

    pub(super) fn ping(&mut self) {
        match &mut self.way {
            Way::Http3(hub, handle) => {
                if let Some(session) = hub.session(*handle) {
                    session.ping();
                }
            }
            Way::Http2(lane, _) => lane.ping(),
        }
    }

    pub(super) fn request_addresses(&mut self, addresses: Vec<RequestedAddress>) {
        match &mut self.way {
            Way::Http3(hub, handle) => {
                if let Some(session) = hub.session(*handle) {
                    session.request_addresses(addresses);
                }
            }
            // A tunnel that is gone says so itself.
            Way::Http2(lane, _) => drop(lane.control().request_addresses(addresses)),
        }
    }

    /// Packets that are not sent yet, each behind [`PREFIX`].
    pub(super) fn take_waiting(&mut self) -> Vec<Bytes> {
        let now = Instant::now();
        match &mut self.way {
            Way::Http3(hub, handle) => {
                hub.session(*handle).map(|session| session.take_waiting(now)).unwrap_or_default()
            }
            Way::Http2(lane, _) => {
                lane.take_waiting(now).iter().map(|packet| [&PREFIX, &packet[..]].concat().into()).collect()
            }
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match &self.way {
            Way::Http3(hub, _) => hub.poll_timeout(),
            Way::Http2(..) => None,
        }
    }

    /// Whether [`receive`](Self::receive) or [`transmit`](Self::transmit) may get on.
    pub(super) fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.way {
            Way::Http3(hub, _) => hub.poll_ready(context),
            Way::Http2(_, incoming) => match incoming.poll_recv(context) {
                Poll::Ready(Some(first)) => {
                    self.first = Some(first);
                    Poll::Ready(())
                }
                // Its end has been told.
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            },
        }
    }

    /// Whether nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.is_over && self.events.is_empty()
    }
}
