//! Packets out.

use std::{
    future::poll_fn,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;

use super::{FRAME_SIZE, link::Owner};
use crate::{capsule::Capsule, session::CloseReason};

/// The largest IP packet in bytes there is.
pub const MAX_PACKET: usize = 65535;

/// A frame takes no further packet from here on, so that one of usual size does not spill into a frame of its own.
const FULL_FRAME: usize = FRAME_SIZE as usize - 2048;

/// Sends IP packets. Dropping it closes the tunnel.
#[derive(Debug)]
pub struct Sender {
    owner: Owner,
    /// The size of the last frame, a guess at that of the next.
    expected: usize,
}

impl Sender {
    /// Waits until [`try_send`](Self::try_send) takes at least one packet. Cancel safe.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn ready(&mut self) -> Result<(), CloseReason> {
        poll_fn(|cx| self.poll_ready(cx)).await
    }

    /// As [`ready`](Self::ready), for a task that waits for other things as well.
    pub fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        ready!(self.owner.0.backlog.poll_room(cx));
        Poll::Ready(match self.owner.0.ended() {
            Some(reason) => Err(reason),
            None => Ok(()),
        })
    }

    /// Sends packets of `batch` while there is room, many to a frame; how many. What it does not take it does not ask
    /// for, so the caller can go on with `batch` after [`ready`](Self::ready).
    ///
    /// The room is what the path carries in about 5 ms, found by watching it, up to 256 KiB; it is exceeded by one packet
    /// at most, so that one always gets through. Packets over [`MAX_PACKET`] are none: they count as sent and are dropped.
    ///
    /// # Errors
    /// When the tunnel is gone; packets taken in this call are lost then.
    pub fn try_send(&mut self, batch: &mut impl Iterator<Item = impl AsRef<[u8]>>) -> Result<usize, CloseReason> {
        self.fill(batch).map(|(sent, _)| sent)
    }

    /// Sends all packets of `batch`, waiting for room. Cancel safe: those taken off `batch` are sent, and a caller that
    /// lends its iterator (`by_ref`) still has the others.
    ///
    /// # Errors
    /// When the tunnel is gone.
    pub async fn send_packets(&mut self, batch: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<(), CloseReason> {
        let mut batch = batch.into_iter();
        loop {
            self.ready().await?;
            let (_, is_over) = self.fill(&mut batch)?;
            if is_over || batch.size_hint().1 == Some(0) {
                return Ok(());
            }
        }
    }

    /// The bytes that wait for the socket, for status and metrics.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.owner.0.backlog.waiting()
    }

    pub(super) fn new(owner: Owner) -> Self {
        Self { owner, expected: 0 }
    }

    /// Takes what there is room for; how many, and whether `batch` said that there are no more.
    fn fill(&mut self, batch: &mut impl Iterator<Item = impl AsRef<[u8]>>) -> Result<(usize, bool), CloseReason> {
        let (mut sent, mut is_over) = (0, false);
        loop {
            let bound = self.owner.0.backlog.room().min(FULL_FRAME);
            if is_over || bound == 0 {
                return Ok((sent, is_over));
            }
            let mut frame = BytesMut::with_capacity(self.expected);
            while frame.len() < bound {
                let Some(packet) = batch.next() else {
                    is_over = true;
                    break;
                };
                sent += 1;
                let packet = packet.as_ref();
                if packet.len() <= MAX_PACKET {
                    Capsule::encode_packet(packet, &mut frame);
                }
            }
            if !frame.is_empty() {
                self.expected = frame.len();
                self.owner.0.send(frame.freeze())?;
            }
        }
    }
}
