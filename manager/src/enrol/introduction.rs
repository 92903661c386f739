//! What a device says about itself, checked field by field. Pure.

use m2m_identity::credential::{self, CredentialError};
use m2m_identity::endorsement::{EkTrust, EndorsementError};
use m2m_protocol::enrolment::EnrolRequest;
use m2m_protocol::names::{DomainName, Token};
use rustls_pki_types::UnixTime;

use crate::ca::hex;
use crate::csr;

/// Far more than any TPM keeps; bounds what waits in memory for devices that have proved nothing.
const MAX_EK_CERTIFICATE: usize = 8 * 1024;

/// A device that has introduced itself: everything fits together, and nothing is proved yet.
#[derive(Debug, Clone)]
pub(crate) struct Introduction {
    pub(crate) serial: Token,
    pub(crate) hostname: String,
    pub(crate) label: Option<Token>,
    pub(crate) ek_public: Vec<u8>,
    /// SHA-256 of the endorsement key's `TPMT_PUBLIC`, in hexadecimal.
    pub(crate) ek_hash: String,
    pub(crate) ek_certificate: Option<Vec<u8>>,
    /// DER of the TLS key's `SubjectPublicKeyInfo`.
    pub(crate) spki: Vec<u8>,
}

/// A field of the request that is wrong.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct BadField {
    pub(crate) field: &'static str,
    pub(crate) problem: String,
}

impl Introduction {
    /// The name under which the manager keeps the device. The same TPM has always the same.
    pub(crate) fn device_id(&self) -> Token {
        device_id(&self.ek_hash)
    }

    /// Checks `request`.
    ///
    /// # Errors
    /// [`BadField`], the first that is wrong.
    pub(crate) fn check(request: EnrolRequest, now: UnixTime) -> Result<Self, BadField> {
        let EnrolRequest { version: _, serial, hostname, label, ek_public, ek_certificate, key_public, csr } = request;
        let hostname: DomainName = hostname.parse().map_err(|_| bad("hostname", "expected a host name"))?;

        let ek_name = credential::ek_name(&ek_public.0).map_err(|error| bad(field_of(&error), error))?;
        // The Name is the algorithm, SHA-256, followed by the digest of the TPMT_PUBLIC.
        let ek_hash = hex(ek_name.get(2..).unwrap_or_default());
        let spki = credential::key_spki(&key_public.0).map_err(|error| bad(field_of(&error), error))?;
        let request = csr::parse(&csr.0).map_err(|problem| bad("csr", problem))?;
        if request.spki != spki {
            return Err(bad("csr", "its public key is not the one in key_public"));
        }
        let ek_certificate = ek_certificate.map(|certificate| certificate.0);
        if let Some(certificate) = &ek_certificate {
            check_ek_certificate(certificate, &ek_public.0, now)?;
        }
        Ok(Self {
            serial,
            hostname: hostname.as_str().to_owned(),
            label,
            ek_public: ek_public.0,
            ek_hash,
            ek_certificate,
            spki,
        })
    }
}

/// The id of the device whose key has the SHA-256 `key_hash`, in hexadecimal.
pub(crate) fn device_id(key_hash: &str) -> Token {
    let start: String = key_hash.chars().take(16).collect();
    #[expect(clippy::expect_used, reason = "a hash in hexadecimal is a token")]
    format!("dev-{start}").parse().expect("a device id")
}

/// Whether the certificate is one, and of this key; who vouches for it is judged when the key is proved.
fn check_ek_certificate(certificate: &[u8], ek_public: &[u8], now: UnixTime) -> Result<(), BadField> {
    if certificate.len() > MAX_EK_CERTIFICATE {
        return Err(bad("ek_certificate", format_args!("expected at most {MAX_EK_CERTIFICATE} bytes")));
    }
    match EkTrust::new().verify(certificate, &[], ek_public, now) {
        Err(error @ (EndorsementError::Certificate(_) | EndorsementError::OtherKey)) => {
            Err(bad("ek_certificate", error))
        }
        Err(error @ EndorsementError::Public(_)) => Err(bad("ek_public", error)),
        Ok(_)
        | Err(
            EndorsementError::UnknownAuthority { .. } | EndorsementError::Chain(_) | EndorsementError::Authority(_),
        ) => Ok(()),
    }
}

fn field_of(error: &CredentialError) -> &'static str {
    match error {
        CredentialError::Key(_) => "key_public",
        CredentialError::Ek(_) | CredentialError::InvalidEk | CredentialError::Crypto(_) => "ek_public",
    }
}

fn bad(field: &'static str, problem: impl std::fmt::Display) -> BadField {
    BadField { field, problem: problem.to_string() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn introduction(serial: &str) -> Introduction {
        Introduction {
            serial: serial.parse().unwrap(),
            hostname: "host".to_owned(),
            label: None,
            ek_public: Vec::new(),
            ek_hash: "0123456789abcdef0123".to_owned(),
            ek_certificate: None,
            spki: Vec::new(),
        }
    }

    #[test]
    fn the_id_comes_from_the_endorsement_key_alone() {
        assert_eq!(introduction("SN-1").device_id().as_str(), "dev-0123456789abcdef");
        assert_eq!(introduction("SN-1").device_id(), introduction("SN-2").device_id());
    }
}
