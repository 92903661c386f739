//! The TUN interface, with offload: many packets per system call.
//!
//! Addresses, routes and the interface's state are the program's to set, by the interface's index.

mod queue;

use std::{io, num::NonZeroU16, sync::Arc};

use nix::errno::Errno;
use tun_rs::{AsyncDevice, DeviceBuilder};

pub use queue::{ReadReport, TunQueue, WriteReport};

/// The interface to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunConfig {
    /// At most 15 bytes.
    pub name: String,
    /// Bytes of the largest IP packet.
    pub mtu: u16,
    /// How many tasks read from it. The kernel gives all packets of a flow to one queue, the one that last wrote a packet
    /// of the flow's other direction; what it gives to a queue that nobody reads is lost.
    pub queues: NonZeroU16,
}

/// A TUN interface, down until the program sets it up; it is gone when all clones of this and all its queues are dropped.
/// Needs CAP_NET_ADMIN, not root.
#[derive(Clone)]
pub struct Tun {
    shared: Arc<Shared>,
}

struct Shared {
    first: Arc<AsyncDevice>,
    others: Vec<Arc<AsyncDevice>>,
    name: String,
    index: u32,
}

impl Tun {
    /// Makes the interface. To be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TunError`] names the interface and what to do.
    pub fn open(config: &TunConfig) -> Result<Self, TunError> {
        let error = |source| TunError::new(&config.name, source);
        let first = DeviceBuilder::new()
            .name(&config.name)
            .mtu(config.mtu)
            .offload(true)
            .multi_queue(config.queues.get() > 1)
            .inherit_enable_state()
            .build_async()
            .map_err(error)?;
        let others = (1..config.queues.get())
            .map(|_| first.try_clone().map(Arc::new))
            .collect::<Result<_, _>>()
            .map_err(error)?;
        let shared = Shared {
            name: first.name().map_err(error)?,
            index: first.if_index().map_err(error)?,
            first: Arc::new(first),
            others,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Its index, for netlink.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.shared.index
    }

    /// Changes the bytes of the largest IP packet. To be called in the interface's network namespace.
    ///
    /// # Errors
    /// What the kernel says: below 68 bytes, or not allowed.
    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        self.shared.first.set_mtu(mtu)
    }

    /// Access to each of its queues, for one task each. Called again it gives access to the same queues, for tasks that
    /// write while others read: packets from the machine go to one of the readers.
    #[must_use]
    pub fn queues(&self) -> Vec<TunQueue> {
        std::iter::once(&self.shared.first)
            .chain(&self.shared.others)
            .map(|device| TunQueue::new(Arc::clone(device)))
            .collect()
    }
}

impl std::fmt::Debug for Tun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tun")
            .field("name", &self.shared.name)
            .field("index", &self.shared.index)
            .field("queues", &(1 + self.shared.others.len()))
            .finish()
    }
}

/// Whether an error of a queue says that the interface is gone for good, not just down.
#[must_use]
pub fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error().map(Errno::from_raw),
        Some(Errno::EBADFD | Errno::EBADF | Errno::ENODEV | Errno::ENXIO)
    )
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
