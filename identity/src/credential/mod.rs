//! TPM2_MakeCredential without a TPM: the server's half of credential activation.
//!
//! The server encrypts a secret so that only the TPM that holds the endorsement key (EK) can decrypt it,
//! and only if it also holds the key whose Name is bound into the credential. A device that returns the
//! secret has thereby proven that its TLS key lives in that TPM. See TPM 2.0 Library, part 1, section
//! "Credential Protection", and TCG EK Credential Profile 2.5.

mod kdf;
mod public_area;
mod seed;

use aws_lc_rs::{
    cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey},
    hmac,
    iv::FixedLength,
};
use zeroize::Zeroizing;

pub use public_area::PublicAreaError;
pub(crate) use public_area::{PublicArea, Unique};

/// Length in bytes of the secret that a credential carries.
pub const SECRET_LEN: usize = 32;

/// A challenge for one TPM and one key in it.
pub struct Credential {
    /// The encrypted secret and its integrity value: a marshalled `TPM2B_ID_OBJECT`.
    pub credential_blob: Vec<u8>,
    /// The seed, encrypted to the EK: a marshalled `TPM2B_ENCRYPTED_SECRET`.
    pub encrypted_secret: Vec<u8>,
    /// What the device must answer. Compare it in constant time; it is wiped when dropped.
    pub secret: Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").finish_non_exhaustive()
    }
}

/// Makes a challenge with a fresh secret that only the TPM with the EK `ek_public` can answer, and only
/// while it holds the key `key_public`. Both are marshalled `TPM2B_PUBLIC`s as the device sent them; nothing
/// in them is believed.
///
/// The EK must be a restricted decryption key fixed to its TPM (RSA 2048 to 4096 or ECC P-256; Name algorithm
/// SHA-256; AES-128-CFB: templates L-1 and L-2). The key must satisfy [`key_spki`].
///
/// # Errors
/// [`CredentialError`] naming the public area and the field that does not fit.
pub fn make(ek_public: &[u8], key_public: &[u8]) -> Result<Credential, CredentialError> {
    let ek = endorsement_area(ek_public)?;
    let key = signing_area(key_public)?;
    let mut secret = Zeroizing::new(vec![0; SECRET_LEN]);
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| CredentialError::Crypto("random numbers"))?;

    let (seed, encrypted_secret) = seed::encrypted_to(&ek)?;
    let credential_blob = protect(seed.as_slice(), &key.name(), &secret)?;
    Ok(Credential { credential_blob, encrypted_secret: sized(&encrypted_secret)?, secret })
}

/// The Name of an EK: its Name algorithm and the digest of its public area. It identifies the TPM.
///
/// # Errors
/// [`CredentialError::Ek`] when `ek_public` is not the `TPM2B_PUBLIC` of an EK as [`make`] demands.
pub fn ek_name(ek_public: &[u8]) -> Result<Vec<u8>, CredentialError> {
    Ok(endorsement_area(ek_public)?.name().to_vec())
}

/// The DER of the `SubjectPublicKeyInfo` of the key in `key_public`, a marshalled `TPM2B_PUBLIC`, to be held
/// against the one in the certificate request.
///
/// # Errors
/// [`CredentialError::Key`] when it is not an unrestricted ECDSA P-256 signing key with the Name algorithm
/// SHA-256 that was made inside a TPM and cannot leave it (fixedTPM, fixedParent, sensitiveDataOrigin).
pub fn key_spki(key_public: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let area = signing_area(key_public)?;
    area.p256_spki().map_err(CredentialError::Key)
}

/// Why no credential could be made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// The endorsement key's public area does not fit.
    #[error("the public area of the endorsement key: {0}")]
    Ek(#[source] PublicAreaError),
    /// The signing key's public area does not fit.
    #[error("the public area of the TLS key: {0}")]
    Key(#[source] PublicAreaError),
    /// The point of the EK is not on its curve, or its modulus is none.
    #[error("the endorsement key is not a valid public key")]
    InvalidEk,
    /// A cryptographic primitive failed.
    #[error("cryptography failed: {0}")]
    Crypto(&'static str),
}

fn endorsement_area(ek_public: &[u8]) -> Result<PublicArea<'_>, CredentialError> {
    let area = PublicArea::parse(ek_public).map_err(CredentialError::Ek)?;
    area.check_endorsement().map_err(CredentialError::Ek)?;
    Ok(area)
}

fn signing_area(key_public: &[u8]) -> Result<PublicArea<'_>, CredentialError> {
    let area = PublicArea::parse(key_public).map_err(CredentialError::Key)?;
    area.check_signing().map_err(CredentialError::Key)?;
    Ok(area)
}

/// The `TPM2B_ID_OBJECT` that protects `secret` by `seed` and binds it to `name` (part 1, "Protection of
/// Credential": encrypt, then HMAC over ciphertext and Name).
fn protect(seed: &[u8], name: &[u8], secret: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let storage_key = kdf::kdfa::<16>(seed, b"STORAGE", name, &[]);
    let mut identity = Zeroizing::new(sized(secret)?);
    // The key is used once, for this one message, so that the specification's zero IV is no weakness.
    UnboundCipherKey::new(&AES_128, storage_key.as_ref())
        .and_then(EncryptingKey::cfb128)
        .and_then(|key| key.less_safe_encrypt(&mut identity, EncryptionContext::Iv128(FixedLength::from([0; 16]))))
        .map_err(|_| CredentialError::Crypto("AES-128-CFB"))?;

    let integrity_key = kdf::kdfa::<32>(seed, b"INTEGRITY", &[], &[]);
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, integrity_key.as_ref()));
    mac.update(&identity);
    mac.update(name);

    let mut object = sized(mac.sign().as_ref())?;
    object.extend_from_slice(&identity);
    sized(&object)
}

/// `bytes` as a TPM2B structure: a big-endian 16-bit length before them.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let length = u16::try_from(bytes.len()).map_err(|_| CredentialError::Crypto("oversized structure"))?;
    let mut out = Vec::with_capacity(2 + bytes.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(out)
}
