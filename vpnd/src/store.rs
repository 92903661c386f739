//! What the daemon keeps between two boots.
//!
//! | file | content |
//! |---|---|
//! | `key-<hash>.pem` | a key of the TPM; the hash is that of its public key, so no key is ever written over |
//! | `enrolment.json` | certificate chain and configuration, with the hash of the key that they belong to |
//! | `networks.json` | what was learned of the networks that the machine has been in |
//! | `clock` | see [`crate::clock`] |
//!
//! An enrolment is one file that is replaced in one step, after its key was written: a power cut at any moment leaves the old
//! enrolment or the new one, each with its key.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use m2m_protocol::Version1;
use m2m_protocol::device_config::DeviceConfig;
use m2m_protocol::durable;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::roaming::Memory;

/// The state directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// A device's membership in a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrolment {
    /// The schema's version.
    pub version: Version1,
    /// The key that the certificate is for.
    pub key: KeyId,
    /// The device's certificate and the issuing CA's, PEM.
    pub certificate_chain: String,
    /// The device's configuration.
    pub configuration: DeviceConfig,
}

/// Names a key: the first 16 hex digits of the SHA-256 over its SubjectPublicKeyInfo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId(String);

impl KeyId {
    /// The name of the key with this SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn of(spki: &[u8]) -> Self {
        Self(Sha256::digest(spki).iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }
}

impl TryFrom<String> for KeyId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text));
        }
        Err("expected 16 hex digits".to_owned())
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> Self {
        id.0
    }
}

/// Why the store cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The enrolment that is stored cannot be understood.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and what.
        reason: String,
    },
}

impl Store {
    /// Makes the directory where it is missing, and removes what a power cut left half written.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed(directory))?;
        let store = Self { directory: directory.to_owned() };
        for (path, name) in store.files()? {
            if name.starts_with(".new-") {
                durable::remove(&path).map_err(failed(&path))?;
            }
        }
        Ok(store)
    }

    /// The file of the saved time.
    #[must_use]
    pub fn clock_file(&self) -> PathBuf {
        self.directory.join("clock")
    }

    /// The enrolment; `None` when this device never was enrolled.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn enrolment(&self) -> Result<Option<Enrolment>, StoreError> {
        let path = self.enrolment_file();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed(&path))?,
        };
        match serde_json::from_slice(&text) {
            Ok(enrolment) => Ok(Some(enrolment)),
            Err(error) => Err(StoreError::Damaged { path, reason: error.to_string() }),
        }
    }

    /// Replaces the enrolment. Its key has to be stored already.
    ///
    /// # Errors
    /// [`StoreError::Io`]; the old enrolment stands then.
    pub fn put_enrolment(&self, enrolment: &Enrolment) -> Result<(), StoreError> {
        let path = self.enrolment_file();
        let text = serde_json::to_vec_pretty(enrolment)
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        durable::write(&path, &text, 0o600).map_err(failed(&path))
    }

    /// What was learned of networks. What cannot be read is learned again.
    #[must_use]
    pub fn networks(&self) -> Memory {
        let text = fs::read(self.networks_file()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// Replaces what was learned of networks.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn put_networks(&self, memory: &Memory) -> Result<(), StoreError> {
        let path = self.networks_file();
        let text = serde_json::to_vec_pretty(memory)
            .map_err(|error| StoreError::Damaged { path: path.clone(), reason: error.to_string() })?;
        durable::write(&path, &text, 0o600).map_err(failed(&path))
    }

    /// The PEM of a key; `None` when it is not there.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn key(&self, id: &KeyId) -> Result<Option<String>, StoreError> {
        let path = self.key_file(id);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(|bytes| Some(String::from_utf8_lossy(&bytes).into_owned())).map_err(failed(&path)),
        }
    }

    /// The names of all keys.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keys(&self) -> Result<Vec<KeyId>, StoreError> {
        let id = |name: &str| KeyId::try_from(name.strip_prefix("key-")?.strip_suffix(".pem")?.to_owned()).ok();
        Ok(self.files()?.iter().filter_map(|(_, name)| id(name)).collect())
    }

    /// Stores a key.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn add_key(&self, id: &KeyId, pem: &str) -> Result<(), StoreError> {
        let path = self.key_file(id);
        durable::write(&path, pem.as_bytes(), 0o600).map_err(failed(&path))
    }

    /// Removes every key but these.
    ///
    /// # Errors
    /// [`StoreError::Io`].
    pub fn keep_keys(&self, keep: &[&KeyId]) -> Result<(), StoreError> {
        for id in self.keys()? {
            if !keep.contains(&&id) {
                let path = self.key_file(&id);
                durable::remove(&path).map_err(failed(&path))?;
            }
        }
        Ok(())
    }

    fn networks_file(&self) -> PathBuf {
        self.directory.join("networks.json")
    }

    fn enrolment_file(&self) -> PathBuf {
        self.directory.join("enrolment.json")
    }

    fn key_file(&self, id: &KeyId) -> PathBuf {
        self.directory.join(format!("key-{}.pem", id.0))
    }

    fn files(&self) -> Result<Vec<(PathBuf, String)>, StoreError> {
        let list = || -> io::Result<Vec<(PathBuf, String)>> {
            fs::read_dir(&self.directory)?
                .map(|entry| entry.map(|entry| (entry.path(), entry.file_name().to_string_lossy().into_owned())))
                .collect()
        };
        list().map_err(failed(&self.directory))
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io { path, source }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn enrolment(key: &KeyId, device_id: &str) -> Enrolment {
        let configuration = serde_json::json!({
            "version": 1,
            "device_id": device_id,
            "tunnel": { "gateway": [{ "origin": "https://gateway.example" }] },
        });
        Enrolment {
            version: Version1,
            key: key.clone(),
            certificate_chain: format!("the certificate of {device_id}"),
            configuration: serde_json::from_value(configuration).unwrap(),
        }
    }

    /// What is on the disk: each file's name and content.
    fn image(directory: &Path) -> Vec<(String, Vec<u8>)> {
        let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
        entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
    }

    /// Boots from such an image, plus the temporary file of a write that was cut off.
    fn boot(image: &[(String, Vec<u8>)], cut: Option<&[u8]>) -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        for (name, content) in image {
            fs::write(directory.path().join(name), content).unwrap();
        }
        if let Some(content) = cut {
            fs::write(directory.path().join(".new-a1b2c3"), content).unwrap();
        }
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn a_power_cut_at_any_moment_leaves_the_old_enrolment_or_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let (old_key, new_key) = (KeyId::of(b"old"), KeyId::of(b"new"));
        let (old, new) = (enrolment(&old_key, "dev-old"), enrolment(&new_key, "dev-new"));
        store.add_key(&old_key, "old pem").unwrap();
        store.put_enrolment(&old).unwrap();

        let steps: [&dyn Fn(&Store); 3] = [
            &|store| store.add_key(&new_key, "new pem").unwrap(),
            &|store| store.put_enrolment(&new).unwrap(),
            &|store| store.keep_keys(&[&new_key]).unwrap(),
        ];
        let mut seen = Vec::new();
        for step in 0..=steps.len() {
            if let Some(index) = step.checked_sub(1) {
                steps[index](&store);
            }
            let image = image(directory.path());
            let whole = serde_json::to_vec_pretty(&new).unwrap();
            for cut in [None, Some(&b""[..]), Some(&whole[..whole.len() / 2]), Some(&whole[..])] {
                let (booted_directory, booted) = boot(&image, cut);
                let enrolment = booted.enrolment().unwrap().unwrap();
                let pem = booted.key(&enrolment.key).unwrap().unwrap();
                assert!((enrolment == old && pem == "old pem") || (enrolment == new && pem == "new pem"));
                assert!(!image_has_leftovers(booted_directory.path()));
                seen.push(enrolment.configuration.device_id.to_string());
            }
        }
        seen.dedup();
        assert_eq!(seen, ["dev-old", "dev-new"]);
    }

    fn image_has_leftovers(directory: &Path) -> bool {
        image(directory).iter().any(|(name, _)| name.starts_with('.'))
    }

    #[test]
    fn a_damaged_enrolment_is_told_from_none_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        assert_eq!(store.enrolment().unwrap(), None);
        let key = KeyId::of(b"key");
        let whole = serde_json::to_vec(&enrolment(&key, "dev-1")).unwrap();
        for length in 0..whole.len() {
            fs::write(directory.path().join("enrolment.json"), &whole[..length]).unwrap();
            assert!(matches!(store.enrolment(), Err(StoreError::Damaged { .. })), "{length}");
        }
    }

    #[test]
    fn nobody_else_can_read_it() {
        let outer = tempfile::tempdir().unwrap();
        let directory = outer.path().join("a/b");
        let store = Store::open(&directory).unwrap();
        let key = KeyId::of(b"key");
        store.add_key(&key, "pem").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(&store.key_file(&key)), 0o600);
        assert_eq!(store.keys().unwrap(), [key]);
    }
}
