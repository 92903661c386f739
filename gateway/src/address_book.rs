//! The pool on disk: no device is told an address before the file says that it is the device's. Several gateways may share the file.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use m2m_protocol::names::Token;

use crate::book_file::{BookFile, LockError, ReadError, Reading, Version};
use crate::config;
use crate::pool::{Addresses, Exhausted, Pool, Saved, SavedError};

/// The pool and its file. A device that this gateway knows gets its addresses whether the file can be used or not.
#[derive(Debug)]
pub(crate) struct AddressBook {
    shelf: Arc<Shelf>,
    /// Who has it uses the file: one thread at a time waits for the file system, for ever in the worst case.
    turn: Arc<tokio::sync::Mutex<()>>,
    wait: Duration,
}

impl AddressBook {
    /// Reads the file: the one that `config` names or, without one, `addresses.json` in `state_dir`, if there is one.
    ///
    /// # Errors
    /// [`BookError`], which names the file.
    pub(crate) fn open(state_dir: &Path, config: &config::Pool) -> Result<Self, BookError> {
        let file = BookFile::new(config.book.clone().unwrap_or_else(|| state_dir.join("addresses.json")));
        let empty = Pool::new(config, Saved::default()).map_err(|source| contradiction(&file, source))?;
        let memory = Memory { pool: empty, version: None, wanted: HashSet::new(), looked: Instant::now() };
        let shelf = Arc::new(Shelf { config: config.clone(), file, memory: Mutex::new(memory) });
        shelf.look()?;
        Ok(Self { shelf, turn: Arc::default(), wait: WAIT })
    }

    /// The addresses of `device`, which are on the disk when this returns. Many devices that come at once share a write.
    ///
    /// # Errors
    /// [`AssignError`], after [`WAIT`] at the latest.
    pub(crate) async fn assign(&self, device: &Token) -> Result<Addresses, AssignError> {
        let deadline = Instant::now() + self.wait;
        self.look().await;
        if let Some(addresses) = self.shelf.find_or_want(device) {
            return Ok(addresses);
        }
        let assigned = tokio::time::timeout_at(deadline.into(), self.assign_in_turn(device, deadline)).await;
        assigned.unwrap_or_else(|_| Err(AssignError::Late { file: self.path(), waited: self.wait }))
    }

    /// The gateway's own addresses.
    pub(crate) fn gateway(&self) -> Addresses {
        self.shelf.memory().pool.gateway()
    }

    /// How many devices have addresses, and for how many there are.
    pub(crate) fn usage(&self) -> (usize, u32) {
        let memory = self.shelf.memory();
        (memory.pool.assigned(), memory.pool.capacity())
    }

    /// What an administrator takes out of the file is noticed when a device comes, at most [`LOOK_EVERY`] late.
    async fn look(&self) {
        if !self.shelf.is_look_due() {
            return;
        }
        // Who has the turn looks, too.
        let Ok(turn) = Arc::clone(&self.turn).try_lock_owned() else { return };
        let shelf = Arc::clone(&self.shelf);
        let look = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            shelf.look()
        });
        let problem = match tokio::time::timeout(LOOK_WAIT, look).await {
            Ok(Ok(Ok(()))) => return,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("{}: the file system does not answer", self.path().display()),
        };
        log::error!("{problem}; devices that this gateway knows keep their addresses");
    }

    async fn assign_in_turn(&self, device: &Token, deadline: Instant) -> Result<Addresses, AssignError> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        // The one who had the turn before may have written this device, too.
        if let Some(addresses) = self.shelf.memory().pool.find(device) {
            return Ok(addresses);
        }
        let (shelf, device) = (Arc::clone(&self.shelf), device.clone());
        let assigned = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            shelf.assign_all(&device, deadline)
        });
        assigned.await.unwrap_or_else(|error| {
            Err(AssignError::Write { file: self.path(), source: io::Error::other(error.to_string()) })
        })
    }

    fn path(&self) -> PathBuf {
        self.shelf.file.path().to_owned()
    }
}

/// How long a new device waits for its turn, the lock and the file system.
const WAIT: Duration = Duration::from_secs(5);
/// How often the file is looked at for devices that have their addresses already.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long such a device waits for that.
const LOOK_WAIT: Duration = Duration::from_millis(500);

/// File and memory. What waits for the file system is called in turn and outside of the runtime.
#[derive(Debug)]
struct Shelf {
    config: config::Pool,
    file: BookFile,
    memory: Mutex<Memory>,
}

#[derive(Debug)]
struct Memory {
    /// What the file said when it was last read or written.
    pool: Pool,
    version: Option<Version>,
    /// The devices that wait for addresses.
    wanted: HashSet<Token>,
    looked: Instant,
}

impl Shelf {
    /// The addresses of `device`; if it has none, the next one who writes the file gives it some.
    fn find_or_want(&self, device: &Token) -> Option<Addresses> {
        let mut memory = self.memory();
        let found = memory.pool.find(device);
        if found.is_none() {
            memory.wanted.insert(device.clone());
        }
        found
    }

    fn is_look_due(&self) -> bool {
        let mut memory = self.memory();
        let due = memory.looked.elapsed() >= LOOK_EVERY;
        if due {
            memory.looked = Instant::now();
        }
        due
    }

    /// Reads the file if it has changed.
    fn look(&self) -> Result<(), BookError> {
        let known = self.memory().version;
        if let Some((pool, version)) = self.read(known)? {
            let mut memory = self.memory();
            (memory.pool, memory.version) = (pool, Some(version));
        }
        Ok(())
    }

    /// Gives addresses to `device` and to all others that wait; their own turns find them in memory.
    fn assign_all(&self, device: &Token, deadline: Instant) -> Result<Addresses, AssignError> {
        let others = std::mem::take(&mut self.memory().wanted);
        let file = || self.file.path().to_owned();
        let lock = self.file.lock(deadline).map_err(|source| AssignError::Lock { file: file(), source })?;
        self.look()?;
        let mut pool = self.memory().pool.clone();
        let assigned = pool.assign(device)?;
        let new = others.iter().filter(|other| pool.assign(other).is_ok_and(|assigned| assigned.new)).count();
        if assigned.new || new > 0 {
            let written = lock.replace(&pool.saved());
            let version = written.map_err(|source| AssignError::Write { file: file(), source })?;
            let mut memory = self.memory();
            (memory.pool, memory.version) = (pool, Some(version));
        }
        Ok(assigned.addresses)
    }

    /// The file's content, unless it is `known`. A gateway's own file may be missing: it is written from memory then. One that
    /// several gateways share may not, since it may just not be mounted.
    fn read(&self, known: Option<Version>) -> Result<Option<(Pool, Version)>, BookError> {
        let file = || self.file.path().to_owned();
        match self.file.read(known).map_err(|source| BookError::Unreadable { file: file(), source })? {
            Reading::Known => Ok(None),
            Reading::Missing if self.config.book.is_some() => Err(BookError::Missing { file: file() }),
            Reading::Missing => Ok(None),
            Reading::New(saved, version) => {
                let pool = Pool::new(&self.config, saved).map_err(|source| contradiction(&self.file, source))?;
                Ok(Some((pool, version)))
            }
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn contradiction(file: &BookFile, source: SavedError) -> BookError {
    BookError::Contradiction { file: file.path().to_owned(), source }
}

/// Why a device gets no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    /// There are none left.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// The file cannot be used.
    #[error(transparent)]
    Book(#[from] BookError),
    /// No other gateway can be kept from changing it.
    #[error("{}: {source}", file.display())]
    Lock {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: LockError,
    },
    /// They cannot be kept.
    #[error("{}: cannot be written: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file system takes its time.
    #[error("{}: not read, locked and written within {} s", file.display(), waited.as_secs_f32())]
    Late {
        /// The file.
        file: PathBuf,
        /// How long the device waited.
        waited: Duration,
    },
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    /// A shared file that is not there.
    #[error(
        "{}: not there; is its file system mounted? The first gateway of a site starts with a file {}",
        file.display(), r#"{"version":1,"devices":{}}"#
    )]
    Missing {
        /// The file.
        file: PathBuf,
    },
    /// It cannot be read, or is no address book.
    #[error("{}: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: ReadError,
    },
    /// It contradicts itself, or the configuration.
    #[error("{}: {source}", file.display())]
    Contradiction {
        /// The file.
        file: PathBuf,
        /// How.
        source: SavedError,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
