//! A P-256 key in software, read from and written to PEM.

use std::fmt;

use aws_lc_rs::{
    encoding::AsDer,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair},
};
use zeroize::Zeroizing;

use crate::{DeviceKey, KeyError};

const PKCS8: &str = "PRIVATE KEY";
const SEC1: &str = "EC PRIVATE KEY";

/// An ECDSA P-256 key held in memory: for gateway and manager, and for machines without a TPM.
pub struct PemKey {
    pair: EcdsaKeyPair,
    spki: Vec<u8>,
}

impl PemKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::Generation`] when the system's source of randomness fails.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(|_| KeyError::Generation)?;
        Self::from_pair(pair)
    }

    /// Reads the first private key in `pem`: PKCS#8 (`PRIVATE KEY`, RFC 5958) or SEC 1
    /// (`EC PRIVATE KEY`, RFC 5915). Other blocks, such as certificates or EC parameters, are
    /// passed over.
    ///
    /// # Errors
    /// [`KeyError`] naming what was found and what was expected.
    pub fn from_pem(pem: &str) -> Result<Self, KeyError> {
        let blocks = pem::parse_many(pem).map_err(|error| KeyError::MalformedPem(error.to_string()))?;
        let Some(block) = blocks.into_iter().find(|block| block.tag().ends_with("PRIVATE KEY")) else {
            return Err(KeyError::Missing);
        };
        let label = block.tag().to_owned();
        let der = Zeroizing::new(block.into_contents());
        let pair = match label.as_str() {
            PKCS8 => EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &der),
            SEC1 => EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_ASN1_SIGNING, &der),
            _ => return Err(KeyError::UnknownLabel(label)),
        };
        Self::from_pair(pair.map_err(|error| KeyError::NotP256(error.to_string()))?)
    }

    /// The private key as PKCS#8 PEM; wiped from memory when dropped.
    ///
    /// # Errors
    /// [`KeyError::Generation`] when the key cannot be encoded.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| KeyError::Generation)?;
        let block = pem::Pem::new(PKCS8, document.as_ref());
        let text =
            Zeroizing::new(pem::encode_config(&block, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF)));
        // Taken out of the block, its copy of the key is wiped too.
        drop(Zeroizing::new(block.into_contents()));
        Ok(text)
    }

    fn from_pair(pair: EcdsaKeyPair) -> Result<Self, KeyError> {
        let spki = pair.public_key().as_der().map_err(|_| KeyError::Generation)?.as_ref().to_vec();
        Ok(Self { pair, spki })
    }
}

impl DeviceKey for PemKey {
    fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.pair
            .sign(&SystemRandom::new(), message)
            .map(|signature| signature.as_ref().to_vec())
            .map_err(|_| KeyError::Signing)
    }
}

impl fmt::Debug for PemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PemKey").finish_non_exhaustive()
    }
}
