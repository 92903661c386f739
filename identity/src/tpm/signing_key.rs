//! The device's signing key in the TPM.

use std::sync::Arc;

use tss_esapi::Context;

use super::{TpmError, key_file::{self, Material}, thread::{Failure, Handle}};
use crate::{DeviceKey, KeyError};

/// An ECDSA P-256 key that lives in a TPM and never leaves it.
#[derive(Clone, Debug)]
pub struct TpmKey {
    thread: Handle,
    material: Arc<Material>,
    spki: Vec<u8>,
    name: Vec<u8>,
}

impl TpmKey {
    /// The key as a `TSS2 PRIVATE KEY` PEM (ASN.1 Specification for TPM 2.0 Key Files). Only the TPM that made the key can
    /// use it.
    pub fn to_pem(&self) -> String {
        key_file::encode(&self.material)
    }

    /// The key's public area: a marshalled `TPM2B_PUBLIC`.
    pub fn public_area(&self) -> &[u8] {
        &self.material.public
    }

    /// The key's Name: its Name algorithm and the digest of its public area.
    pub fn name(&self) -> &[u8] {
        &self.name
    }

    pub(super) fn new(thread: Handle, material: Material) -> Result<Self, TpmError> {
        Ok(Self { thread, material: Arc::new(material), spki: Vec::new(), name: Vec::new() })
    }

    pub(super) fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material)
    }
}

impl DeviceKey for TpmKey {
    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, _message: &[u8]) -> Result<Vec<u8>, KeyError> {
        Ok(self.thread.run("sign", |_| Err(TpmError::Gone.into()))?)
    }
}

pub(super) fn create(_context: &mut Context) -> Result<Material, Failure> {
    Err(TpmError::Gone.into())
}

pub(super) fn check(_context: &mut Context, _material: &Material) -> Result<(), Failure> {
    Err(TpmError::Gone.into())
}
