//! What every key of a device, gateway or manager can do.

use std::fmt::Debug;

use crate::{card::CardError, tpm::TpmError};

/// An ECDSA P-256 key that signs; where its private half lives is its own affair.
///
/// Implementations may block: a discrete TPM needs 50 to 300 ms for a signature. Call them from a
/// multi-thread runtime.
pub trait DeviceKey: Send + Sync + Debug {
    /// The public key as DER of the X.509 `SubjectPublicKeyInfo` (RFC 5280, section 4.1.2.7).
    fn spki_der(&self) -> &[u8];

    /// Signs `message` by ECDSA on P-256 with SHA-256 and returns the DER of `ECDSA-Sig-Value`
    /// (RFC 3279, section 2.2.3).
    ///
    /// # Errors
    /// [`KeyError::Tpm`] or [`KeyError::Card`] when the TPM or the card refuses or does not answer, [`KeyError::Signing`] otherwise.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError>;
}

/// Why a key could not be read, made or used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The text holds no PEM block of a private key.
    #[error("no private key found: expected a PEM block `PRIVATE KEY`, `EC PRIVATE KEY` or `TSS2 PRIVATE KEY`")]
    Missing,
    /// The text is not PEM.
    #[error("malformed PEM: {0}")]
    MalformedPem(String),
    /// The PEM block is of a kind that is not supported.
    #[error(
        "a PEM block `{0}` is not supported: expected `PRIVATE KEY` (PKCS#8), `EC PRIVATE KEY` (SEC 1) or `TSS2 PRIVATE KEY`"
    )]
    UnknownLabel(String),
    /// The key was decoded, but is not an ECDSA P-256 key.
    #[error("the private key is not an unencrypted ECDSA P-256 key: {0}")]
    NotP256(String),
    /// A TPM key was found, but no TPM was given to load it into.
    #[error("this is the key of a TPM, and no TPM is configured: set the TPM, or use a PKCS#8 key")]
    NeedsTpm,
    /// The software signer failed.
    #[error("signing failed")]
    Signing,
    /// The key could not be generated or exported.
    #[error("the P-256 key could not be generated or encoded")]
    Generation,
    /// The card failed or refused.
    #[error(transparent)]
    Card(#[from] CardError),
    /// The TPM failed or refused.
    #[error(transparent)]
    Tpm(#[from] TpmError),
}
