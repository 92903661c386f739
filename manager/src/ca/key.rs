//! A software key as rcgen wants its signers.

use m2m_identity::{DeviceKey, PemKey};
use rcgen::{PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey};

/// Length of an uncompressed P-256 point, which ends the `SubjectPublicKeyInfo`.
const POINT: usize = 65;

/// A CA's key.
#[derive(Debug)]
pub(super) struct CaKey(pub(super) PemKey);

impl PublicKeyData for CaKey {
    fn der_bytes(&self) -> &[u8] {
        let spki = self.0.spki_der();
        spki.get(spki.len().saturating_sub(POINT)..).unwrap_or_default()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for CaKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}
