//! One file descriptor of a TUN interface.

use std::{io, os::fd::AsFd, sync::Arc};

use bytes::{Bytes, BytesMut};
use nix::{errno::Errno, sys::uio::writev};
use tun_rs::AsyncDevice;

use super::is_gone;
use crate::{
    offload::{
        coalesce::Coalescer,
        segment::{Malformed, Segments},
        virtio::HEADER_LENGTH,
    },
    packet::Header,
};

/// One task's access to one queue of the interface. Buffers are made when they are first needed.
pub struct TunQueue {
    device: Arc<AsyncDevice>,
    raw: RawBuffer,
    arena: Arena,
    coalescer: Coalescer,
}

/// What [`TunQueue::try_read_batch`] brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadReport {
    /// Packets.
    pub packets: usize,
    /// Bytes of the packets, without prefixes.
    pub bytes: usize,
    /// System calls that brought something.
    pub calls: usize,
    /// Reads that were left out as the caller wanted.
    pub refused: usize,
    /// Reads that were left out because they hold no whole IP packet.
    pub malformed: usize,
}

/// What [`TunQueue::try_write_batch`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WriteReport {
    /// Packets that the kernel took.
    pub written: usize,
    /// Packets that it did not take: the interface is down, or the packet broken.
    pub dropped: usize,
    /// System calls.
    pub calls: usize,
}

impl TunQueue {
    pub(super) fn new(device: Arc<AsyncDevice>) -> Self {
        let coalescer = Coalescer::new(device.udp_gso());
        Self { device, raw: RawBuffer::default(), arena: Arena::default(), coalescer }
    }

    /// Waits until there is something to read. Cancel safe.
    ///
    /// # Errors
    /// When the runtime ends.
    pub async fn readable(&self) -> io::Result<()> {
        self.device.readable().await
    }

    /// Takes what the machine sent and cuts it into packets, until there is nothing more or `max_bytes` of it are taken;
    /// the last read may exceed them by 64 KiB. Each of `packets` is `prefix` followed by an IP packet of complete
    /// checksums that does not exceed the interface's MTU. `accept` sees the addresses of each read before it is cut.
    ///
    /// The packets share memory, which is used again once they are dropped.
    ///
    /// # Errors
    /// When nothing was read and the interface is down or [gone](is_gone). That there is nothing to read is no error.
    pub fn try_read_batch(
        &mut self,
        prefix: &[u8],
        max_bytes: usize,
        packets: &mut Vec<Bytes>,
        mut accept: impl FnMut(&Header) -> bool,
    ) -> io::Result<ReadReport> {
        let mut report = ReadReport::default();
        let mut taken = 0;
        while taken < max_bytes {
            let read = match self.raw.try_read(&self.device) {
                Ok(Some(read)) => read,
                Ok(None) => break,
                Err(error) if taken == 0 => return Err(error),
                // It comes again.
                Err(_) => break,
            };
            taken += read.len();
            report.calls += 1;
            let mut segments = match Segments::new(read) {
                Ok(segments) => segments,
                Err(malformed) => {
                    log_malformed(malformed);
                    report.malformed += 1;
                    continue;
                }
            };
            if !accept(segments.header()) {
                report.refused += 1;
                continue;
            }
            report.packets += segments.remaining();
            report.bytes += segments.total_length();
            packets.reserve(segments.remaining());
            let memory = self.arena.room(segments.total_length() + segments.remaining() * prefix.len());
            while segments.remaining() > 0 {
                memory.extend_from_slice(prefix);
                segments.next_into(memory);
                packets.push(memory.split().freeze());
            }
        }
        Ok(report)
    }

    /// Gives packets to the machine, those of one flow merged and in their order. What the kernel does not take is
    /// counted and lost, as any packet may be.
    ///
    /// # Errors
    /// When the interface is [gone](is_gone).
    pub fn try_write_batch(&mut self, packets: impl IntoIterator<Item = Bytes>) -> io::Result<WriteReport> {
        for packet in packets {
            self.coalescer.push(packet);
        }
        let written = write_groups(&self.device, &self.coalescer);
        self.coalescer.clear();
        written
    }
}

impl std::fmt::Debug for TunQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunQueue").finish_non_exhaustive()
    }
}

fn log_malformed(malformed: Malformed) {
    log::debug!("dropped what came from the interface: {malformed}");
}

fn write_groups(device: &AsyncDevice, batch: &Coalescer) -> io::Result<WriteReport> {
    let mut report = WriteReport::default();
    for group in batch.groups() {
        report.calls += 1;
        // Not through the runtime: a TUN interface always takes a packet or refuses it at once.
        match group.gather(|slices| writev(device.as_fd(), slices)) {
            Ok(_) => report.written += group.packets(),
            Err(errno) if is_gone(&errno.into()) => return Err(errno.into()),
            Err(errno) => {
                log_refused(errno);
                report.dropped += group.packets();
            }
        }
    }
    Ok(report)
}

fn log_refused(errno: Errno) {
    log::debug!("the interface did not take a packet: {errno}");
}

/// Bytes of the largest packet that the kernel gives, IPv6 with its header apart, before it is cut.
const MAX_READ: usize = 40 + 65535;

/// What one read is read into.
#[derive(Default)]
struct RawBuffer(Vec<u8>);

impl RawBuffer {
    /// What there is to read, if anything.
    fn try_read(&mut self, device: &AsyncDevice) -> io::Result<Option<&[u8]>> {
        self.0.resize(HEADER_LENGTH + MAX_READ, 0);
        match device.try_recv(&mut self.0) {
            Ok(length) => Ok(Some(&self.0[..length])),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Bytes of a chunk of an [`Arena`]: a few uncut packets.
const CHUNK: usize = 256 * 1024;

/// Chunks that an [`Arena`] keeps.
const KEPT_CHUNKS: usize = 4;

/// Memory for packets that are made one after another and dropped in about the same order.
#[derive(Default)]
struct Arena {
    chunks: Vec<BytesMut>,
    current: usize,
}

impl Arena {
    /// An empty buffer that holds `bytes` without growing.
    fn room(&mut self, bytes: usize) -> &mut BytesMut {
        let fitting = |chunk: &mut BytesMut| chunk.capacity() >= bytes || chunk.try_reclaim(bytes);
        if !self.chunks.get_mut(self.current).is_some_and(fitting) {
            self.current = match self.chunks.iter_mut().position(fitting) {
                Some(free) => free,
                None => self.replace(BytesMut::with_capacity(bytes.max(CHUNK))),
            };
        }
        &mut self.chunks[self.current]
    }

    /// Adds a chunk, in place of the one after the current one when there are enough: that is the longest in use, and its
    /// memory goes with its last packet.
    fn replace(&mut self, fresh: BytesMut) -> usize {
        if self.chunks.len() < KEPT_CHUNKS {
            self.chunks.push(fresh);
            return self.chunks.len() - 1;
        }
        let next = (self.current + 1) % KEPT_CHUNKS;
        self.chunks[next] = fresh;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(arena: &mut Arena, bytes: usize) -> Bytes {
        let room = arena.room(bytes);
        room.resize(bytes, 7);
        room.split().freeze()
    }

    #[test]
    fn memory_is_used_again() {
        let mut arena = Arena::default();
        let mut places = std::collections::HashSet::new();
        let mut held = std::collections::VecDeque::new();
        // Half of the memory is held at any time, and a hundred times of it passes.
        for _ in 0..100 * KEPT_CHUNKS * CHUNK / 50_000 {
            let packet = take(&mut arena, 50_000);
            places.insert(packet.as_ptr() as usize);
            held.push_back(packet);
            if held.len() * 50_000 > KEPT_CHUNKS * CHUNK / 2 {
                held.pop_front();
            }
        }
        assert!(arena.chunks.len() <= KEPT_CHUNKS);
        assert!(places.len() <= KEPT_CHUNKS * (CHUNK / 50_000), "{} places", places.len());
    }

    #[test]
    fn memory_that_is_held_is_left_alone() {
        let mut arena = Arena::default();
        let held: Vec<_> = (0..40).map(|_| take(&mut arena, CHUNK / 2)).collect();
        assert!(arena.chunks.len() <= KEPT_CHUNKS);
        let mut places: Vec<_> = held.iter().map(|packet| packet.as_ptr() as usize).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= CHUNK / 2));
        assert!(take(&mut arena, 3 * CHUNK).iter().all(|byte| *byte == 7));
    }
}
