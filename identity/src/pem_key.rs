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

    /// Reads a key from PKCS#8 (RFC 5958), DER.
    ///
    /// # Errors
    /// [`KeyError::NotP256`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, der);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{
        io::Write,
        process::{Command, Stdio},
    };

    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
    use proptest::prelude::*;

    use super::*;

    fn openssl(arguments: &str, input: &str) -> String {
        let mut child = Command::new("openssl")
            .args(arguments.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl is needed by this test");
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    }

    #[test]
    fn a_key_survives_its_pem_and_signs() {
        let key = PemKey::generate().unwrap();
        let pem = key.to_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        let read = PemKey::from_pem(&pem).unwrap();
        assert_eq!(read.spki_der(), key.spki_der());
        let signature = read.sign(b"message").unwrap();
        ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.spki_der())
            .unwrap()
            .verify_sig(b"message", &signature)
            .unwrap();
    }

    #[test]
    fn what_openssl_writes_is_read() {
        let sec1_pem = openssl("ecparam -name prime256v1 -genkey", "");
        assert!(sec1_pem.contains("BEGIN EC PARAMETERS"));
        let pkcs8_pem = openssl("pkcs8 -topk8 -nocrypt", &sec1_pem);
        let sec1 = PemKey::from_pem(&sec1_pem).unwrap();
        let pkcs8 = PemKey::from_pem(&pkcs8_pem).unwrap();
        assert_eq!(sec1.spki_der(), pkcs8.spki_der());
        let spki = openssl("pkey -pubout", &pkcs8_pem);
        assert_eq!(sec1.spki_der(), pem::parse(spki).unwrap().contents());
    }

    #[test]
    fn other_keys_are_refused_with_what_was_expected() {
        let refusal = |pem: &str| PemKey::from_pem(pem).unwrap_err();
        let p384 = openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384", "");
        assert!(matches!(refusal(&p384), KeyError::NotP256(_)));
        assert!(matches!(refusal(""), KeyError::Missing));
        let pem = PemKey::generate().unwrap().to_pem().unwrap();
        let encrypted = pem.replace("PRIVATE", "ENCRYPTED PRIVATE");
        assert!(matches!(
            refusal(&encrypted),
            KeyError::UnknownLabel(label) if label == "ENCRYPTED PRIVATE KEY"
        ));
        assert!(matches!(
            refusal("-----BEGIN PRIVATE KEY-----\n!\n-----END PRIVATE KEY-----\n"),
            KeyError::MalformedPem(_)
        ));
    }

    #[test]
    fn the_private_key_is_not_shown() {
        let key = PemKey::generate().unwrap();
        assert_eq!(format!("{key:?}"), "PemKey { .. }");
    }

    proptest! {
        #[test]
        fn arbitrary_content_is_refused(der in proptest::collection::vec(any::<u8>(), 0..200)) {
            for label in [PKCS8, SEC1] {
                let pem = pem::encode(&pem::Pem::new(label, der.clone()));
                prop_assert!(PemKey::from_pem(&pem).is_err());
            }
        }
    }
}
