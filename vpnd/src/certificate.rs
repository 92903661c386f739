//! The device's own certificate: what is said of it, and whether it may be taken.

use m2m_identity::DeviceKey;
use m2m_identity::chain::{self, ChainError};
use m2m_identity::tls::{ClientVerifier, Identity, TlsError, TrustAnchors};
use m2m_protocol::names::Token;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// A certificate in short, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The subject's distinguished name (RFC 4514).
    pub subject: String,
    /// The issuer's.
    pub issuer: String,
    /// The end of its validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// The serial number, hex.
    pub serial: String,
}

impl Summary {
    /// Reads a certificate, DER.
    ///
    /// # Errors
    /// [`CertificateError::Malformed`].
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let certificate = parse(certificate)?;
        Ok(Self {
            subject: certificate.subject().to_string(),
            issuer: certificate.issuer().to_string(),
            not_after: certificate.validity().not_after.to_datetime(),
            serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    /// Whether the certificate's validity is over.
    #[must_use]
    pub fn is_expired(&self, now: UnixTime) -> bool {
        i64::try_from(now.as_secs()).is_ok_and(|now| self.not_after.unix_timestamp() < now)
    }
}

/// Joins a chain from the manager with the key that it was asked for, after checking that it is this device's: for this key,
/// by an authority below the trust anchor, valid now, and in the name of `device_id` (common name and
/// `urn:m2mvpn:device:` URI).
///
/// # Errors
/// [`CertificateError`] names what does not hold.
pub fn accept(
    chain_pem: &str,
    key: Arc<dyn DeviceKey>,
    anchors: &TrustAnchors,
    device_id: &Token,
    now: UnixTime,
) -> Result<Identity, CertificateError> {
    let identity = join(chain_pem, key)?;
    let Some((leaf, issuers)) = identity.chain().split_first() else {
        return Err(CertificateError::Chain(ChainError::Empty));
    };
    let verifier = ClientVerifier::new(anchors.clone(), &[])?;
    verifier.verify_client_cert(leaf, issuers, now).map_err(CertificateError::Untrusted)?;
    is_for(&parse(leaf)?, device_id)?;
    Ok(identity)
}

/// Joins a chain with its key, as files keep them.
///
/// # Errors
/// [`CertificateError::Chain`] or [`CertificateError::Tls`] when they are malformed or do not belong together.
pub fn join(chain_pem: &str, key: Arc<dyn DeviceKey>) -> Result<Identity, CertificateError> {
    Ok(Identity::new(chain::certificates(chain_pem.as_bytes())?, key)?)
}

/// Why a certificate is not taken.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The chain cannot be read.
    #[error("{0}")]
    Chain(#[from] ChainError),
    /// It does not belong to the key, or the trust anchor is unusable.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// It does not chain to the trust anchor, is not valid now, or is not for clients.
    #[error("the certificate does not hold against the trust anchor: {0}")]
    Untrusted(rustls::Error),
    /// The leaf cannot be parsed.
    #[error("the certificate is malformed: {0}")]
    Malformed(String),
    /// It is somebody else's.
    #[error("the certificate is not in the name of {expected}: {found}")]
    OtherDevice {
        /// The device id of the configuration.
        expected: Token,
        /// What the certificate says.
        found: String,
    },
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|error| CertificateError::Malformed(error.to_string()))?;
    Ok(certificate)
}

fn is_for(certificate: &X509Certificate<'_>, device_id: &Token) -> Result<(), CertificateError> {
    let mut names = certificate.subject().iter_common_name().map(|name| name.as_str().unwrap_or_default());
    if names.next() != Some(device_id.as_str()) || names.next().is_some() {
        let found = format!("its subject is {:?}", certificate.subject().to_string());
        return Err(CertificateError::OtherDevice { expected: device_id.clone(), found });
    }
    let uri = format!("urn:m2mvpn:device:{device_id}");
    let extension =
        certificate.subject_alternative_name().map_err(|error| CertificateError::Malformed(error.to_string()))?;
    let named = extension.is_some_and(|extension| {
        extension.value.general_names.iter().any(|name| matches!(name, GeneralName::URI(found) if *found == uri))
    });
    if !named {
        let found = format!("the URI {uri} is missing");
        return Err(CertificateError::OtherDevice { expected: device_id.clone(), found });
    }
    Ok(())
}
