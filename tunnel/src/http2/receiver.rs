//! Packets and events in.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::RecvStream;
use tokio::task::coop;

use super::{link::Owner, reason};
use crate::{
    capsule::{Capsule, CapsuleReader},
    http3::ProtocolError,
    session::{CloseReason, Event},
};

/// [`Receiver::recv`] begins no further frame when it has this many packets.
pub const MAX_BATCH: usize = 128;

/// Receives IP packets and what the peer says, in the order of the stream. Dropping it closes the tunnel.
///
/// What nobody takes stays with the peer: 6 MiB at most are on the way here.
#[derive(Debug)]
pub struct Receiver {
    owner: Owner,
    inbound: Inbound,
    farewell: Farewell,
}

/// What [`Receiver::recv`] brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// So many packets were appended.
    Packets(usize),
    /// The peer said something. [`Event::Closed`] does not come: the end is an error.
    Event(Event),
}

impl Receiver {
    /// Waits for packets, all of which that are there it appends to `packets`, or for an event. Cancel safe. Packets come
    /// as the peer sent them: check them with [`crate::packet`].
    ///
    /// A frame is delivered as a whole, so there may be more packets than [`MAX_BATCH`]: as many as 64 KiB hold. They are
    /// slices of their frame, which stays in memory as long as one of them does.
    ///
    /// # Errors
    /// When the tunnel is gone, and again each time.
    pub async fn recv(&mut self, packets: &mut Vec<Bytes>) -> Result<Received, CloseReason> {
        poll_fn(|cx| self.poll_recv(cx, packets)).await
    }

    /// As [`recv`](Self::recv), for a task that waits for other things as well.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>, packets: &mut Vec<Bytes>) -> Poll<Result<Received, CloseReason>> {
        if self.farewell == Farewell::Due {
            return self.tell_farewell();
        }
        match self.inbound.poll(cx, packets) {
            Poll::Ready(Ok(received)) => {
                if self.farewell == Farewell::Unheard && self.owner.0.farewell().is_some() {
                    self.farewell = Farewell::Due;
                }
                return Poll::Ready(Ok(received));
            }
            Poll::Ready(Err(end)) => self.end(end),
            Poll::Pending => {}
        }
        self.owner.0.call_receiver(cx.waker());
        if self.inbound.stream.is_none() {
            // The reason that counts is that of the connection's task, when it is known.
            return self.owner.0.ended().map_or(Poll::Pending, |reason| Poll::Ready(Err(reason)));
        }
        if self.farewell == Farewell::Unheard && self.owner.0.farewell().is_some() {
            return self.tell_farewell();
        }
        Poll::Pending
    }

    fn tell_farewell(&mut self) -> Poll<Result<Received, CloseReason>> {
        self.farewell = Farewell::Told;
        Poll::Ready(Ok(Received::Event(Event::GoAway)))
    }

    /// Ends the tunnel for what was found in its stream.
    fn end(&self, end: End) {
        let link = &self.owner.0;
        match end {
            End::Finished => link.close(CloseReason::Ended, h2::Reason::NO_ERROR),
            End::Malformed(error) => link.fail(error),
            // The connection's task knows more.
            End::Broken(error) if error.is_io() || error.is_go_away() => {}
            End::Broken(error) => link.close(reason::of_error(&error, &link.socket), h2::Reason::CANCEL),
            End::Told => {}
        }
    }

    pub(super) fn new(owner: Owner, stream: RecvStream) -> Self {
        let inbound =
            Inbound { stream: Some(stream), piece: Bytes::new(), capsules: CapsuleReader::default(), held: None };
        Self { owner, inbound, farewell: Farewell::Unheard }
    }
}

/// Where the peer's GOAWAY is. A tunnel that is over already ends without it.
#[derive(Debug, PartialEq, Eq)]
enum Farewell {
    Unheard,
    /// To be told before further packets.
    Due,
    Told,
}

#[derive(Debug)]
struct Inbound {
    /// None after its end.
    stream: Option<RecvStream>,
    /// What is left of the frame that came last.
    piece: Bytes,
    capsules: CapsuleReader,
    /// What came behind packets.
    held: Option<Result<Event, End>>,
}

/// Why nothing more comes.
#[derive(Debug)]
enum End {
    /// The peer ended the stream in order.
    Finished,
    /// The peer broke the protocol.
    Malformed(ProtocolError),
    /// The stream or the connection is gone.
    Broken(h2::Error),
    /// It was told before.
    Told,
}

impl Inbound {
    /// Pending only when it appended nothing.
    fn poll(&mut self, cx: &mut Context<'_>, packets: &mut Vec<Bytes>) -> Poll<Result<Received, End>> {
        if let Some(held) = self.held.take() {
            return Poll::Ready(held.map(Received::Event));
        }
        if self.stream.is_none() {
            return Poll::Ready(Err(End::Told));
        }
        let before = packets.len();
        let found = loop {
            match self.take_capsules(packets).map_err(End::Malformed).transpose() {
                Some(found) => break found,
                None if packets.len() - before >= MAX_BATCH => {
                    return Poll::Ready(Ok(Received::Packets(packets.len() - before)));
                }
                None => {}
            }
            match self.poll_frame(cx) {
                Poll::Ready(Ok(piece)) => self.piece = piece,
                Poll::Ready(Err(end)) => break Err(end),
                Poll::Pending if packets.len() == before => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Ok(Received::Packets(packets.len() - before))),
            }
        };
        if found.is_err() {
            // h2 closes a client's connection when nobody holds a stream any more.
            self.stream = None;
        }
        if packets.len() == before {
            return Poll::Ready(found.map(Received::Event));
        }
        self.held = Some(found);
        Poll::Ready(Ok(Received::Packets(packets.len() - before)))
    }

    /// Takes the packets out of the piece, up to the first event.
    fn take_capsules(&mut self, packets: &mut Vec<Bytes>) -> Result<Option<Event>, ProtocolError> {
        while let Some(capsule) = self.capsules.next_in(&mut self.piece)? {
            match capsule {
                Capsule::Datagram(payload) => packets.extend(Capsule::packet(&payload)),
                Capsule::AddressAssign(addresses) => return Ok(Some(Event::AddressesAssigned(addresses))),
                Capsule::AddressRequest(addresses) => return Ok(Some(Event::AddressesRequested(addresses))),
                Capsule::RouteAdvertisement(ranges) => return Ok(Some(Event::RoutesAdvertised(ranges))),
                // Only QUIC's bindings are asked about.
                Capsule::Echo(_) => {}
            }
        }
        Ok(None)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, End>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Err(End::Told));
        };
        // A peer that sends without a pause must not hold up this task's other work.
        let progress = ready!(coop::poll_proceed(cx));
        let frame = ready!(stream.poll_data(cx));
        progress.made_progress();
        let end = match frame {
            Some(Ok(frame)) => match stream.flow_control().release_capacity(frame.len()) {
                Ok(()) => return Poll::Ready(Ok(frame)),
                Err(error) => End::Broken(error),
            },
            Some(Err(error)) => End::Broken(error),
            None => match self.capsules.finish() {
                Ok(()) => End::Finished,
                Err(error) => End::Malformed(error),
            },
        };
        Poll::Ready(Err(end))
    }
}
