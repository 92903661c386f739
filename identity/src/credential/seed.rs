//! The seed of a credential, encrypted to the endorsement key (TPM 2.0 Library, part 1, annexes B.10.3 and
//! C.6.4: RSA-OAEP, or one-pass ECDH with KDFe; label "IDENTITY").

use aws_lc_rs::{
    agreement::{self, ECDH_P256, PrivateKey, UnparsedPublicKey},
    rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey, PublicKeyComponents},
};
use zeroize::Zeroizing;

use super::{CredentialError, PublicArea, Unique, kdf, sized};
use crate::spki::COORDINATE;

type Seed = Zeroizing<[u8; 32]>;

/// A fresh seed, and the content of its `TPM2B_ENCRYPTED_SECRET`.
pub(super) fn encrypted_to(ek: &PublicArea<'_>) -> Result<(Seed, Vec<u8>), CredentialError> {
    match ek.unique() {
        Unique::Rsa { modulus, exponent } => by_oaep(modulus, *exponent),
        Unique::P256 { x, y } => by_ecdh(x, y),
    }
}

fn by_ecdh(x: &[u8; COORDINATE], y: &[u8; COORDINATE]) -> Result<(Seed, Vec<u8>), CredentialError> {
    let ephemeral = PrivateKey::generate(&ECDH_P256).map_err(|_| CredentialError::Crypto("ephemeral P-256 key"))?;
    let public = ephemeral.compute_public_key().map_err(|_| CredentialError::Crypto("ephemeral P-256 key"))?;
    let Some((ephemeral_x, ephemeral_y)) =
        public.as_ref().strip_prefix(&[0x04]).and_then(|point| point.split_at_checked(COORDINATE))
    else {
        return Err(CredentialError::Crypto("ephemeral P-256 key"));
    };

    let peer = UnparsedPublicKey::new(&ECDH_P256, [&[0x04], &x[..], &y[..]].concat());
    let seed = agreement::agree(&ephemeral, peer, CredentialError::InvalidEk, |z| {
        Ok(kdf::kdfe(z, b"IDENTITY", ephemeral_x, x))
    })?;
    let mut point = sized(ephemeral_x)?;
    point.extend(sized(ephemeral_y)?);
    Ok((seed, point))
}

fn by_oaep(modulus: &[u8], exponent: u32) -> Result<(Seed, Vec<u8>), CredentialError> {
    // aws-lc wants no leading zeros.
    let exponent = exponent.to_be_bytes();
    let exponent = &exponent[exponent.iter().take_while(|byte| **byte == 0).count()..];
    let mut seed = Seed::default();
    aws_lc_rs::rand::fill(seed.as_mut_slice()).map_err(|_| CredentialError::Crypto("random numbers"))?;

    let key: PublicEncryptingKey =
        PublicKeyComponents { n: modulus, e: exponent }.try_into().map_err(|_| CredentialError::InvalidEk)?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| CredentialError::InvalidEk)?;
    let mut ciphertext = vec![0; key.ciphertext_size()];
    let length = key
        .encrypt(&OAEP_SHA256_MGF1SHA256, seed.as_slice(), &mut ciphertext, Some(b"IDENTITY\0"))
        .map_err(|_| CredentialError::Crypto("RSA-OAEP"))?
        .len();
    ciphertext.truncate(length);
    Ok((seed, ciphertext))
}
