//! Certificate chains, trust anchors and private keys as they lie in files.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::{
    DeviceKey, KeyError, PemKey,
    tpm::{self, Tpm},
};

/// The certificates in `bytes`, in their order: PEM (any number of `CERTIFICATE` blocks, others are
/// passed over) or the DER of one certificate.
///
/// # Errors
/// [`ChainError`] when there is none, or one cannot be parsed; it names which.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, ChainError> {
    let found = match bytes.first() {
        Some(&DER_SEQUENCE) => vec![CertificateDer::from(bytes.to_vec())],
        _ => pem::parse_many(bytes)
            .map_err(|error| ChainError::MalformedPem(error.to_string()))?
            .into_iter()
            .filter(|block| block.tag() == CERTIFICATE)
            .map(|block| CertificateDer::from(block.into_contents()))
            .collect(),
    };
    if found.is_empty() {
        return Err(ChainError::Empty);
    }
    for (index, certificate) in found.iter().enumerate() {
        match x509_parser::parse_x509_certificate(certificate) {
            Ok(([], _)) => {}
            Ok(_) => return Err(ChainError::TrailingData(index + 1)),
            Err(error) => return Err(ChainError::Malformed(index + 1, error.to_string())),
        }
    }
    Ok(found)
}

/// `chain` as PEM, one block after the other.
pub fn to_pem(chain: &[CertificateDer<'_>]) -> String {
    let blocks: Vec<_> = chain.iter().map(|certificate| pem::Pem::new(CERTIFICATE, certificate.to_vec())).collect();
    pem::encode_many_config(&blocks, pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// The private key in `pem`, by the label of its block: a software key, or a key of `tpm`.
///
/// # Errors
/// [`KeyError::NeedsTpm`] for a `TSS2 PRIVATE KEY` without a TPM; otherwise as
/// [`PemKey::from_pem`] and [`Tpm::load_signing_key`].
pub fn private_key(pem: &str, tpm: Option<&Tpm>) -> Result<Arc<dyn DeviceKey>, KeyError> {
    if !tpm::is_key_file(pem) {
        return Ok(Arc::new(PemKey::from_pem(pem)?));
    }
    let tpm = tpm.ok_or(KeyError::NeedsTpm)?;
    Ok(Arc::new(tpm.load_signing_key(pem)?))
}

/// The certificate of the key with this `SubjectPublicKeyInfo`, then its issuers as far as they are there, but no root; `None` when none
/// is for the key. What cannot be parsed is passed over.
pub(crate) fn order(spki: &[u8], certificates: &[CertificateDer<'_>]) -> Option<Vec<CertificateDer<'static>>> {
    let parsed: Vec<(&CertificateDer<'_>, X509Certificate<'_>)> =
        certificates.iter().filter_map(|der| Some((der, X509Certificate::from_der(der).ok()?.1))).collect();
    let mut last = parsed.iter().find(|(_, certificate)| certificate.public_key().raw == spki)?;
    let mut chain = vec![last.0.clone().into_owned()];
    while let Some(issuer) = parsed.iter().find(|(der, certificate)| {
        certificate.subject() == last.1.issuer()
            && certificate.subject() != certificate.issuer()
            && !chain.iter().any(|known| known == *der)
    }) {
        chain.push(issuer.0.clone().into_owned());
        last = issuer;
    }
    Some(chain)
}

/// A certificate's `SubjectPublicKeyInfo`, DER.
pub(crate) fn public_key(certificate: &CertificateDer<'_>) -> Result<Vec<u8>, ChainError> {
    match X509Certificate::from_der(certificate) {
        Ok((_, certificate)) => Ok(certificate.public_key().raw.to_vec()),
        Err(error) => Err(ChainError::Malformed(1, error.to_string())),
    }
}

const CERTIFICATE: &str = "CERTIFICATE";
const DER_SEQUENCE: u8 = 0x30;

/// Why certificates could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    /// The text is not PEM.
    #[error("malformed PEM: {0}")]
    MalformedPem(String),
    /// There is no certificate.
    #[error("no certificate found: expected PEM blocks `CERTIFICATE`, or the DER of one certificate")]
    Empty,
    /// A certificate cannot be parsed; counted from 1.
    #[error("certificate {0} is malformed: {1}")]
    Malformed(usize, String),
    /// Bytes follow a certificate; counted from 1.
    #[error("certificate {0} is followed by stray bytes")]
    TrailingData(usize),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn chain() -> Vec<CertificateDer<'static>> {
        ["one", "two"]
            .map(|name| rcgen::generate_simple_self_signed([name.to_owned()]).unwrap().cert.der().clone())
            .to_vec()
    }

    #[test]
    fn a_chain_survives_its_pem_whatever_stands_between_the_blocks() {
        let chain = chain();
        let pem = to_pem(&chain);
        assert_eq!(certificates(pem.as_bytes()).unwrap(), chain);
        let key = PemKey::generate().unwrap().to_pem().unwrap();
        let mixed = format!("subject=CN = one\n{}{pem}", *key);
        assert_eq!(certificates(mixed.as_bytes()).unwrap(), chain);
        assert_eq!(certificates(&chain[1]).unwrap(), chain[1..]);
        assert!(private_key(&mixed, None).is_ok());
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        let chain = chain();
        assert!(matches!(certificates(b""), Err(ChainError::Empty)));
        let stray = [&chain[0][..], &[0]].concat();
        assert!(matches!(certificates(&stray), Err(ChainError::TrailingData(1))));
        let cut = CertificateDer::from(chain[1][..100].to_vec());
        let pem = to_pem(&[chain[0].clone(), cut]);
        assert!(matches!(certificates(pem.as_bytes()), Err(ChainError::Malformed(2, _))));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(certificates(&bytes).is_err());
        }
    }
}
