//! The pool on disk: no device is told an address before the file says that it is the device's.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use m2m_protocol::durable;
use m2m_protocol::names::Token;

use crate::config;
use crate::pool::{Addresses, Exhausted, Pool, Saved, SavedError};

/// The pool and its file `addresses.json`.
#[derive(Debug)]
pub(crate) struct AddressBook {
    file: PathBuf,
    book: Mutex<Book>,
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Book {
    pool: Pool,
    /// The devices that have an address here and not yet in the file.
    unwritten: HashSet<Token>,
}

impl AddressBook {
    /// Reads the file in `state_dir`, if there is one.
    ///
    /// # Errors
    /// [`BookError`], which names the file.
    pub(crate) fn open(state_dir: &Path, ranges: config::Pool) -> Result<Self, BookError> {
        let file = state_dir.join("addresses.json");
        let saved = match std::fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|source| BookError::Malformed { file: file.clone(), source })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Saved::default(),
            Err(source) => return Err(BookError::Io { file, source }),
        };
        let pool =
            Pool::new(ranges, saved).map_err(|source| BookError::Contradiction { file: file.clone(), source })?;
        let book = Mutex::new(Book { pool, unwritten: HashSet::new() });
        Ok(Self { file, book, writing: tokio::sync::Mutex::new(()) })
    }

    /// The addresses of `device`; new ones are on the disk when this returns. Many devices that come at once share a write.
    ///
    /// # Errors
    /// [`AssignError`].
    pub(crate) async fn assign(&self, device: &Token) -> Result<Addresses, AssignError> {
        let addresses = {
            let mut book = self.lock();
            let assigned = book.pool.assign(device)?;
            if assigned.new {
                book.unwritten.insert(device.clone());
            }
            assigned.addresses
        };
        if !self.is_unwritten(device) {
            return Ok(addresses);
        }
        let _writing = self.writing.lock().await;
        // The one who wrote before may have written this device, too.
        if self.is_unwritten(device) {
            self.write().await.map_err(|source| AssignError::Io { file: self.file.clone(), source })?;
        }
        Ok(addresses)
    }

    /// The gateway's own addresses.
    pub(crate) fn gateway(&self) -> Addresses {
        self.lock().pool.gateway()
    }

    /// How many devices have addresses, and for how many there are.
    pub(crate) fn usage(&self) -> (usize, u32) {
        let book = self.lock();
        (book.pool.assigned(), book.pool.capacity())
    }

    async fn write(&self) -> io::Result<()> {
        let (saved, now_written) = {
            let book = self.lock();
            (book.pool.saved(), book.unwritten.clone())
        };
        let file = self.file.clone();
        tokio::task::spawn_blocking(move || {
            let text = serde_json::to_vec_pretty(&saved).map_err(io::Error::other)?;
            durable::write(&file, &text, 0o600)
        })
        .await
        .map_err(io::Error::other)??;
        self.lock().unwritten.retain(|device| !now_written.contains(device));
        Ok(())
    }

    fn is_unwritten(&self, device: &Token) -> bool {
        self.lock().unwritten.contains(device)
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a device gets no addresses.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AssignError {
    /// There are none left.
    #[error(transparent)]
    Exhausted(#[from] Exhausted),
    /// They cannot be kept.
    #[error("{}: cannot be written: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BookError {
    /// It cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// It is no address book.
    #[error("{}: {source}; restore it from a backup, for without it devices change their addresses", file.display())]
    Malformed {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It contradicts itself.
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
mod tests {
    use super::*;

    fn ranges() -> config::Pool {
        config::Pool { ipv4: "10.99.0.0/28".parse().ok(), ipv6: None }
    }

    #[tokio::test]
    async fn addresses_survive_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let device = |n: u8| format!("dev-{n}").parse::<Token>().unwrap();
        let book = std::sync::Arc::new(AddressBook::open(directory.path(), ranges()).unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..10 {
            let book = std::sync::Arc::clone(&book);
            tasks.spawn(async move { (number, book.assign(&device(number)).await.unwrap()) });
        }
        let given = tasks.join_all().await;
        let again = AddressBook::open(directory.path(), ranges()).unwrap();
        assert_eq!(again.usage(), (10, 13));
        for (number, addresses) in given {
            assert_eq!(again.assign(&device(number)).await.unwrap(), addresses);
        }
    }

    #[tokio::test]
    async fn a_new_device_is_refused_while_the_file_cannot_be_written_and_old_ones_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let book = AddressBook::open(&state, ranges()).unwrap();
        let old = "old".parse().unwrap();
        let addresses = book.assign(&old).await.unwrap();
        std::fs::rename(&state, directory.path().join("away")).unwrap();
        assert!(matches!(book.assign(&"new".parse().unwrap()).await, Err(AssignError::Io { .. })));
        assert_eq!(book.assign(&old).await.unwrap(), addresses);
        std::fs::rename(directory.path().join("away"), &state).unwrap();
        assert!(book.assign(&"new".parse().unwrap()).await.is_ok());
        assert_eq!(AddressBook::open(&state, ranges()).unwrap().usage().0, 2);
    }

    #[test]
    fn a_damaged_file_is_no_reason_to_start_over() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("addresses.json"), "{\"version\":1,\"dev").unwrap();
        let error = AddressBook::open(directory.path(), ranges()).unwrap_err().to_string();
        assert!(error.contains("addresses.json") && error.contains("backup"), "{error}");
    }
}
