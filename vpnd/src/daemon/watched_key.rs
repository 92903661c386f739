//! A key that remembers why it could not sign: the error that TLS passes on does not say.

use std::sync::{Arc, Mutex, PoisonError};

use m2m_identity::{DeviceKey, KeyError};

#[derive(Debug)]
pub(super) struct WatchedKey {
    key: Arc<dyn DeviceKey>,
    failure: Mutex<Option<String>>,
}

impl WatchedKey {
    pub(super) fn new(key: Arc<dyn DeviceKey>) -> Self {
        Self { key, failure: Mutex::default() }
    }

    /// Why the last signature failed, if it did; forgets it.
    pub(super) fn take_failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl DeviceKey for WatchedKey {
    fn spki_der(&self) -> &[u8] {
        self.key.spki_der()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let result = self.key.sign(message);
        let failure = result.as_ref().err().map(ToString::to_string);
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        result
    }
}
