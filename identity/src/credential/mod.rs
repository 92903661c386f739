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

/// A marshalled public area as [`make`] demands it of a key.
#[cfg(test)]
pub(crate) fn sample_key() -> Vec<u8> {
    const POINT: std::ops::Range<usize> = 0..64;
    let mut area = public_area::samples::key();
    area.point[POINT].fill(5);
    area.bytes()
}

/// `bytes` as a TPM2B structure: a big-endian 16-bit length before them.
fn sized(bytes: &[u8]) -> Result<Vec<u8>, CredentialError> {
    let length = u16::try_from(bytes.len()).map_err(|_| CredentialError::Crypto("oversized structure"))?;
    let mut out = Vec::with_capacity(2 + bytes.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::{
        public_area::samples::{self, Area},
        *,
    };

    #[test]
    fn both_kinds_of_endorsement_keys_get_a_credential_of_the_right_form() {
        for (ek, secret_length) in [(samples::ecc_ek(), 2 + 32 + 2 + 32), (samples::rsa_ek(), 256)] {
            let made = make(&ek.bytes(), &samples::key().bytes()).unwrap();
            assert_eq!(made.secret.len(), SECRET_LEN);
            assert_eq!(made.encrypted_secret.len(), 2 + secret_length);
            // Integrity value and encrypted secret, each with its length.
            assert_eq!(made.credential_blob.len(), 2 + 2 + 32 + 2 + SECRET_LEN);
            let again = make(&ek.bytes(), &samples::key().bytes()).unwrap();
            assert_ne!(*again.secret, *made.secret);
            assert_ne!(again.encrypted_secret, made.encrypted_secret);
            let name = ek_name(&ek.bytes()).unwrap();
            assert_eq!(name[..2], [0x00, 0x0b]);
            assert_eq!(name.len(), 34);
        }
    }

    #[test]
    fn a_point_off_the_curve_is_refused() {
        let mut ek = samples::ecc_ek();
        ek.point[40] ^= 1;
        let error = make(&ek.bytes(), &samples::key().bytes()).unwrap_err();
        assert!(matches!(error, CredentialError::InvalidEk), "{error:?}");
    }

    #[test]
    fn a_key_that_could_leave_its_tpm_or_do_more_than_sign_is_refused() {
        let check = |change: fn(&mut Area)| {
            let mut key = samples::key();
            change(&mut key);
            match make(&samples::ecc_ek().bytes(), &key.bytes()).unwrap_err() {
                CredentialError::Key(error) => error.to_string(),
                error => panic!("{error:?}"),
            }
        };
        assert!(check(|key| key.attributes &= !(1 << 1)).contains("fixedTPM"));
        assert!(check(|key| key.attributes &= !(1 << 4)).contains("fixedParent"));
        assert!(check(|key| key.attributes &= !(1 << 5)).contains("sensitiveDataOrigin"));
        assert!(check(|key| key.attributes |= 1 << 16).contains("restricted"));
        assert!(check(|key| key.attributes |= 1 << 17).contains("decrypt"));
        assert!(check(|key| key.attributes &= !(1 << 18)).contains("`sign`"));
        assert!(check(|key| key.curve = 4).contains("curveID"));
        assert!(check(|key| key.name_algorithm = 4).contains("nameAlg"));
        assert!(check(|key| key.scheme = vec![0, 0x18, 0, 4]).contains("hashAlg"));
        assert!(check(|key| key.scheme = vec![0, 0x1c, 0, 0x0b]).contains("scheme"));
    }

    #[test]
    fn an_endorsement_key_that_would_decrypt_anything_is_refused() {
        for change in [
            (|ek: &mut Area| ek.attributes &= !(1 << 16)) as fn(&mut Area),
            |ek| ek.attributes &= !(1 << 17),
            |ek| ek.attributes |= 1 << 18,
            |ek| ek.attributes &= !(1 << 1),
            |ek| ek.symmetric = vec![0, 0x10],
            |ek| ek.symmetric = vec![0, 6, 1, 0, 0, 0x43],
        ] {
            let mut ek = samples::ecc_ek();
            change(&mut ek);
            let error = make(&ek.bytes(), &samples::key().bytes()).unwrap_err();
            assert!(matches!(error, CredentialError::Ek(_)), "{error:?}");
            assert!(ek_name(&ek.bytes()).is_err());
        }
    }

    #[test]
    fn the_key_in_the_public_area_is_the_one_of_the_spki() {
        let key = samples::key();
        let spki = key_spki(&key.bytes()).unwrap();
        assert!(spki.ends_with(&key.point));
        assert!(key_spki(&samples::rsa_ek().bytes()).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(
            ek in proptest::collection::vec(any::<u8>(), 0..400),
            key in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            prop_assert!(make(&ek, &key).is_err());
            prop_assert!(ek_name(&ek).is_err());
            prop_assert!(key_spki(&key).is_err());
        }

        #[test]
        fn altered_public_areas_never_panic_and_never_keep_their_name(
            index in 0usize..400,
            value in any::<u8>(),
            cut in 0usize..400,
            rsa in any::<bool>(),
        ) {
            let original = if rsa { samples::rsa_ek() } else { samples::ecc_ek() }.bytes();
            let mut altered = original.clone();
            let index = index % altered.len();
            altered[index] = value;
            if altered != original && let Ok(name) = ek_name(&altered) {
                prop_assert_ne!(name, ek_name(&original).unwrap());
            }
            let _ = make(&altered, &samples::key().bytes());
            let cut = cut % original.len();
            prop_assert!(ek_name(&original[..cut]).is_err());
        }
    }
}
