//! The TUN interface, with offload: many packets per system call.
//!
//! Addresses, routes and the interface's state are the program's to set, by the interface's index.

use std::{io, sync::Arc};

use bytes::BytesMut;
use nix::errno::Errno;
use tun_rs::{AsyncDevice, DeviceBuilder, GROTable, VIRTIO_NET_HDR_LEN};

/// The interface to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// At most 15 bytes.
    pub name: String,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// A TUN interface, down until the program sets it up; it is gone when this and all its readers and writers are dropped.
/// Needs CAP_NET_ADMIN, not root.
pub struct Tun {
    device: Arc<AsyncDevice>,
    name: String,
    index: u32,
    mtu: u16,
}

impl Tun {
    /// Makes the interface. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TunError`] names the interface and what to do.
    pub fn open(config: &TunConfig) -> Result<Self, TunError> {
        let error = |source| TunError::new(&config.name, source);
        let device = DeviceBuilder::new()
            .name(&config.name)
            .mtu(config.mtu)
            .offload(true)
            .inherit_enable_state()
            .build_async()
            .map_err(error)?;
        Ok(Self {
            name: device.name().map_err(error)?,
            index: device.if_index().map_err(error)?,
            mtu: config.mtu,
            device: Arc::new(device),
        })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its index, for netlink.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The half that packets from the machine come from. One reader per interface: several share the packets.
    #[must_use]
    pub fn reader(&self) -> TunReader {
        TunReader {
            device: Arc::clone(&self.device),
            raw: vec![0; VIRTIO_NET_HDR_LEN + MAX_READ],
            packets: vec![vec![0; usize::from(self.mtu)]; READ_BUFFERS],
            sizes: vec![0; READ_BUFFERS],
        }
    }

    /// A half that packets to the machine go into; each task has its own.
    #[must_use]
    pub fn writer(&self) -> TunWriter {
        TunWriter { device: Arc::clone(&self.device), table: GROTable::new(), buffers: Vec::new(), filled: 0 }
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.name)
            .field("index", &self.index)
            .field("mtu", &self.mtu)
            .finish_non_exhaustive()
    }
}

/// Whether an error of a reader or writer says that the interface is gone for good, not just down.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EBADFD | Errno::EBADF | Errno::ENODEV | Errno::ENXIO)
    )
}

/// The largest packet in bytes that the kernel gives, before it is cut into segments.
const MAX_READ: usize = 65535;

/// Packets that one [`TunReader::recv_batch`] brings at most.
const READ_BUFFERS: usize = 256;

/// Segments of one packet of the kernel: [`MAX_READ`] in segments of the default MSS of IPv4, 536 bytes, are 123.
const MAX_SEGMENTS: usize = 128;

/// Bytes to which the writer merges segments of a flow.
const MERGED: usize = 32 * 1024;

/// Buffers that a writer keeps between batches.
const KEPT_BUFFERS: usize = 16;

/// Takes packets from the machine.
pub struct TunReader {
    device: Arc<AsyncDevice>,
    raw: Vec<u8>,
    packets: Vec<Vec<u8>>,
    sizes: Vec<usize>,
}

impl TunReader {
    /// Waits for packets; at least one. None exceeds the interface's MTU, and their checksums are complete. They may be
    /// changed in place. Cancel safe.
    ///
    /// # Errors
    /// When the interface is gone.
    pub async fn recv_batch(&mut self) -> io::Result<impl Iterator<Item = &mut [u8]>> {
        let mut filled = 0;
        while filled == 0 {
            let read = self.device.recv_multiple(&mut self.raw, &mut self.packets, &mut self.sizes, 0).await;
            filled = accept(read)?;
        }
        while READ_BUFFERS - filled >= MAX_SEGMENTS {
            let read =
                self.device.try_recv_multiple(&mut self.raw, &mut self.packets[filled..], &mut self.sizes[filled..], 0);
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It comes again with the next batch.
                Err(error) if error.raw_os_error().is_some() => break,
                read => filled += accept(read)?,
            }
        }
        let filled = self.packets.iter_mut().zip(&self.sizes).take(filled);
        Ok(filled.map(|(packet, size)| &mut packet[..*size]))
    }
}

/// A packet that cannot be cut into segments is lost as any packet may be: only what the kernel says is an error.
fn accept(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error().is_none() => {
            log::debug!("dropped a packet from the interface: {error}");
            Ok(0)
        }
        read => read,
    }
}

impl std::fmt::Debug for TunReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunReader").finish_non_exhaustive()
    }
}

/// Gives packets to the machine.
pub struct TunWriter {
    device: Arc<AsyncDevice>,
    table: GROTable,
    /// The first `filled` hold packets, each behind room for the header of the kernel.
    buffers: Vec<BytesMut>,
    filled: usize,
}

impl TunWriter {
    /// Adds a packet to the batch. It should be one that [`crate::packet::Header::parse`] accepts.
    pub fn push(&mut self, packet: &[u8]) {
        if packet.is_empty() {
            return;
        }
        if self.filled == self.buffers.len() {
            self.buffers.push(BytesMut::with_capacity(2 * VIRTIO_NET_HDR_LEN + MERGED));
        }
        let buffer = &mut self.buffers[self.filled];
        buffer.clear();
        buffer.resize(VIRTIO_NET_HDR_LEN, 0);
        buffer.extend_from_slice(packet);
        self.filled += 1;
    }

    /// The packets in the batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.filled
    }

    /// Whether the batch is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Writes the batch, merging segments of a flow. The batch is empty afterwards, whatever comes out.
    ///
    /// # Errors
    /// When the kernel did not take a packet: the interface is down, or [gone](is_gone). The others were written.
    pub async fn flush(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        let batch = &mut self.buffers[..filled];
        let written = self.device.send_multiple(&mut self.table, batch, VIRTIO_NET_HDR_LEN).await;
        self.buffers.truncate(KEPT_BUFFERS);
        written.map(drop)
    }
}

impl std::fmt::Debug for TunWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunWriter").field("filled", &self.filled).finish_non_exhaustive()
    }
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No right to make one.
    #[error(
        "cannot make the interface {name}: not allowed; the program needs CAP_NET_ADMIN and access to /dev/net/tun"
    )]
    NotAllowed {
        /// The interface.
        name: String,
    },
    /// Another process has it.
    #[error("cannot make the interface {name}: another process uses it")]
    Busy {
        /// The interface.
        name: String,
    },
    /// The kernel has no TUN driver.
    #[error("cannot make the interface {name}: there is no /dev/net/tun; load the kernel module tun")]
    NoDriver {
        /// The interface.
        name: String,
    },
    /// Something else.
    #[error("cannot make the interface {name}: {source}")]
    Io {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl TunError {
    fn new(name: &str, source: io::Error) -> Self {
        let name = name.to_owned();
        match source.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EPERM | Errno::EACCES) => Self::NotAllowed { name },
            Some(Errno::EBUSY) => Self::Busy { name },
            Some(Errno::ENOENT) => Self::NoDriver { name },
            _ => Self::Io { name, source },
        }
    }
}
