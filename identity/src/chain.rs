//! Certificate chains, trust anchors and private keys as they lie in files.

use std::sync::Arc;

use rustls_pki_types::CertificateDer;

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
            Ok((rest, _)) if rest.is_empty() => {}
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
