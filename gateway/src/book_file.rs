//! The file of an address book, and the lock by which the gateways of a site take turns to change it. Everything here waits for the
//! file system.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use m2m_protocol::durable;

use crate::pool::Saved;

/// The file and, beside it, the one that is locked, which has the same name with `.lock` after it.
#[derive(Debug)]
pub(crate) struct BookFile {
    path: PathBuf,
    lock: PathBuf,
}

impl BookFile {
    /// Nothing is read or made yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        let mut lock = path.clone().into_os_string();
        lock.push(".lock");
        Self { path, lock: lock.into() }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What the file says, unless it is the version that is `known` already.
    ///
    /// # Errors
    /// Whatever the file system says, except that there is no file; a content that is no address book.
    pub(crate) fn read(&self, known: Option<Version>) -> Result<Reading, ReadError> {
        // NFS looks again which file a name stands for when the directory is opened (close-to-open consistency), and would
        // believe its cache otherwise. If it cannot be opened, neither can the file.
        drop(File::open(directory(&self.path)));
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reading::Missing),
            Err(error) => return Err(error.into()),
        };
        let version = Version::of(&file.metadata()?);
        if known == Some(version) {
            return Ok(Reading::Known);
        }
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut file, &mut bytes)?;
        Ok(Reading::New(serde_json::from_slice(&bytes)?, version))
    }

    /// Waits, at most until `deadline`, until no other gateway is about to change the file.
    ///
    /// It is a lock of the whole file, `flock`, which Linux carries over NFS since version 4 of it and which ends with its process.
    ///
    /// # Errors
    /// [`LockError`].
    pub(crate) fn lock(&self, deadline: Instant) -> Result<Lock<'_>, LockError> {
        let begun = Instant::now();
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(MODE).open(&self.lock)?;
        let mut pause = Duration::from_millis(1);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { book: self, _file: file }),
                Err(TryLockError::Error(error)) => return Err(error.into()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                    return Err(LockError::Taken { waited: begun.elapsed() });
                }
                // A call that waits could not be called off.
                Err(TryLockError::WouldBlock) => std::thread::sleep(pause),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

/// Between two attempts to get the lock. Another gateway holds it as long as it takes to write the file.
const LONGEST_PAUSE: Duration = Duration::from_millis(16);
/// Only the gateway's user reads it: it names every device.
const MODE: u32 = 0o600;

/// As long as this is there, no other gateway changes the file.
#[derive(Debug)]
pub(crate) struct Lock<'a> {
    book: &'a BookFile,
    _file: File,
}

impl Lock<'_> {
    /// Replaces the file; the new one is on the disk when this returns.
    ///
    /// # Errors
    /// Whatever the file system says. The old file is untouched then.
    pub(crate) fn replace(&self, content: &Saved) -> io::Result<Version> {
        let text = serde_json::to_vec_pretty(content)?;
        durable::write(&self.book.path, &text, MODE)?;
        Ok(Version::of(&self.book.path.metadata()?))
    }
}

/// Tells one content of the file from another: each is a file of its own that has been renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Version {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Version {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// What [`BookFile::read`] found.
#[derive(Debug)]
pub(crate) enum Reading {
    /// No file.
    Missing,
    /// The version that was known.
    Known,
    /// Another one.
    New(Saved, Version),
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    /// The file system's answer.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is no address book.
    #[error("{0}; restore it from a backup, for without it devices change their addresses")]
    Malformed(#[from] serde_json::Error),
}

/// Why the lock cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LockError {
    /// Another gateway has it.
    #[error("another gateway has had it locked for {:.1} s", waited.as_secs_f32())]
    Taken {
        /// How long this one waited.
        waited: Duration,
    },
    /// The file system's answer.
    #[error("cannot be locked: {0}")]
    Io(#[from] io::Error),
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn saved(text: &str) -> Saved {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn a_version_is_read_once() {
        let directory = tempfile::tempdir().unwrap();
        let book = BookFile::new(directory.path().join("addresses.json"));
        assert!(matches!(book.read(None).unwrap(), Reading::Missing));
        let deadline = Instant::now() + Duration::from_secs(10);
        let content = saved(r#"{"version":1,"devices":{"a":2}}"#);
        let version = book.lock(deadline).unwrap().replace(&content).unwrap();
        assert!(matches!(book.read(Some(version)).unwrap(), Reading::Known));
        let Reading::New(read, same) = book.read(None).unwrap() else { panic!("it is there") };
        assert_eq!((read, same), (content, version));

        // Another one of the same size.
        let other = book.lock(deadline).unwrap().replace(&saved(r#"{"version":1,"devices":{"b":2}}"#)).unwrap();
        assert_ne!(other, version);
        assert!(matches!(book.read(Some(version)).unwrap(), Reading::New(_, found) if found == other));
    }

    #[test]
    fn a_lock_is_waited_for_no_longer_than_the_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = [(); 2].map(|()| BookFile::new(directory.path().join("addresses.json"))).into();
        let held = one.lock(Instant::now()).unwrap();
        let limit = Duration::from_millis(200);
        let begun = Instant::now();
        let refused = other.lock(begun + limit).unwrap_err();
        assert!(matches!(refused, LockError::Taken { waited } if waited >= limit), "{refused}");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| other.lock(Instant::now() + Duration::from_secs(10)).map(drop));
            drop(held);
            waiting.join().unwrap().unwrap();
        });
        assert!(one.lock(Instant::now()).is_ok());
    }
}
