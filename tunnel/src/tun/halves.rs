//! The interface as two halves that copy each packet.

use std::{io, sync::Arc};

use bytes::{Bytes, BytesMut};
use nix::errno::Errno;
use tun_rs::AsyncDevice;

use super::queue::{RawBuffer, TunQueue, log_malformed};
use crate::offload::segment::Segments;

/// Bytes that one [`TunReader::recv_batch`] takes, of which the last read may exceed.
const BATCH: usize = 128 * 1024;

/// Takes packets from the machine.
pub struct TunReader {
    device: Arc<AsyncDevice>,
    raw: RawBuffer,
    packets: BytesMut,
    sizes: Vec<usize>,
}

impl TunReader {
    pub(super) fn new(device: Arc<AsyncDevice>) -> Self {
        Self { device, raw: RawBuffer::default(), packets: BytesMut::new(), sizes: Vec::new() }
    }

    /// Waits for packets; at least one. None exceeds the interface's MTU, and their checksums are complete. They may be
    /// changed in place. Cancel safe.
    ///
    /// # Errors
    /// When the interface is gone.
    pub async fn recv_batch(&mut self) -> io::Result<impl Iterator<Item = &mut [u8]>> {
        self.packets.clear();
        self.sizes.clear();
        while self.sizes.is_empty() {
            self.device.readable().await?;
            self.fill()?;
        }
        let mut rest: &mut [u8] = &mut self.packets;
        Ok(self.sizes.iter().map(move |size| {
            let (packet, behind) = std::mem::take(&mut rest).split_at_mut(*size);
            rest = behind;
            packet
        }))
    }

    fn fill(&mut self) -> io::Result<()> {
        while self.packets.len() < BATCH {
            let read = match self.raw.try_read(&self.device) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(error) if self.sizes.is_empty() => return Err(error),
                // It comes again with the next batch.
                Err(_) => break,
            };
            match Segments::new(read) {
                Ok(mut segments) => {
                    self.sizes.extend(std::iter::from_fn(|| segments.next_into(&mut self.packets)));
                }
                Err(malformed) => log_malformed(malformed),
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for TunReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunReader").finish_non_exhaustive()
    }
}

/// Gives packets to the machine.
#[derive(Debug)]
pub struct TunWriter {
    queue: TunQueue,
}

impl TunWriter {
    pub(super) fn new(queue: TunQueue) -> Self {
        Self { queue }
    }

    /// Adds a packet to the batch. It should be one that [`crate::packet::Header::parse`] accepts.
    pub fn push(&mut self, packet: &[u8]) {
        self.queue.push(Bytes::copy_from_slice(packet));
    }

    /// The packets in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.pushed()
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the batch, merging segments of a flow. The batch is empty afterwards, whatever comes out.
    ///
    /// # Errors
    /// When the kernel did not take a packet: the interface is down, or [gone](super::is_gone). The others were written.
    pub async fn flush(&mut self) -> io::Result<()> {
        match self.queue.flush()?.dropped {
            0 => Ok(()),
            _ => Err(Errno::EIO.into()),
        }
    }
}
