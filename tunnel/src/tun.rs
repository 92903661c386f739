//! The TUN interface, with offload: many packets per system call.
//!
//! Addresses, routes and the interface's state are the program's to set, by the interface's index.

use std::io;

/// The interface to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// At most 15 bytes.
    pub name: String,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
}

/// A TUN interface, down until the program sets it up; it is gone when this and every [`TunWriter`] is dropped.
/// Needs CAP_NET_ADMIN, not root.
#[derive(Debug)]
pub struct Tun {}

impl Tun {
    /// Makes the interface.
    ///
    /// # Errors
    /// [`TunError`] names the interface and what to do.
    pub fn open(_config: &TunConfig) -> Result<Self, TunError> {
        todo!()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        todo!()
    }

    /// Its index, for netlink.
    #[must_use]
    pub fn index(&self) -> u32 {
        todo!()
    }

    /// The half that packets from the machine come from. One reader per interface.
    #[must_use]
    pub fn reader(&self) -> TunReader {
        todo!()
    }

    /// A half that packets to the machine go into; each task has its own.
    #[must_use]
    pub fn writer(&self) -> TunWriter {
        todo!()
    }
}

/// Takes packets from the machine.
#[derive(Debug)]
pub struct TunReader {}

impl TunReader {
    /// Waits for packets; at least one. Checksums in them are complete. Cancel safe. The packets may be changed in place.
    ///
    /// # Errors
    /// When the interface is gone.
    pub async fn recv_batch(&mut self) -> io::Result<impl Iterator<Item = &mut [u8]>> {
        todo!() as io::Result<std::vec::IntoIter<&mut [u8]>>
    }
}

/// Gives packets to the machine.
#[derive(Debug)]
pub struct TunWriter {}

impl TunWriter {
    /// Adds a packet to the batch. Packets that cannot be an IP packet of this interface (empty, over 65535 bytes) are not added.
    pub fn push(&mut self, _packet: &[u8]) {
        todo!()
    }

    /// Writes the batch, merging segments of a flow. The batch is empty afterwards, whatever comes out.
    ///
    /// # Errors
    /// When the interface is gone or down (`EIO`).
    pub async fn flush(&mut self) -> io::Result<()> {
        todo!()
    }
}

/// Why there is no interface.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    /// No right to make one.
    #[error("cannot make the interface {name}: not allowed; give the program CAP_NET_ADMIN and access to /dev/net/tun")]
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
    /// Something else.
    #[error("cannot make the interface {name}: {source}")]
    Io {
        /// The interface.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
}
