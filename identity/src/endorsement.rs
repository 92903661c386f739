//! Which makers of TPMs are believed, and the check of an endorsement key's certificate
//! (TCG EK Credential Profile for TPM Family 2.0, version 2.5).

use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
    public_key::PublicKey,
    x509::X509Name,
};

use crate::credential::{PublicArea, PublicAreaError, Unique};

/// The content of the OID tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: &[u8] = &[0x67, 0x81, 0x05, 0x08, 0x01];

/// The CAs of TPM makers whose endorsement key certificates are accepted.
#[derive(Clone, Debug, Default)]
pub struct EkTrust {
    anchors: Vec<TrustAnchor<'static>>,
}

/// What a verified endorsement key certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endorser {
    /// The TPM's maker, such as `id:49465800` (TCG vendor ID); empty if not stated.
    pub manufacturer: String,
    /// The TPM's model; empty if not stated.
    pub model: String,
    /// The TPM's firmware version, such as `id:00070055`; empty if not stated.
    pub version: String,
    /// The certificate's serial number in hexadecimal.
    pub certificate_serial: String,
    /// The name of the CA that issued the certificate.
    pub issuer: String,
}

impl EkTrust {
    /// Trusts nobody.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the CA `certificate`, a root or an intermediate one.
    ///
    /// # Errors
    /// [`EndorsementError::Authority`] when it is not a certificate of a CA.
    pub fn add(&mut self, certificate: &CertificateDer<'_>) -> Result<(), EndorsementError> {
        let malformed = |reason: String| EndorsementError::Authority(reason);
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| malformed(error.to_string()))?;
        if !parsed.is_ca() {
            return Err(malformed("its basic constraints do not say that it is a CA".to_owned()));
        }
        let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(|error| malformed(error.to_string()))?;
        self.anchors.push(anchor.to_owned());
        Ok(())
    }

    /// How many CAs are trusted.
    pub fn len(&self) -> usize {
        self.anchors.len()
    }

    /// Whether nobody is trusted.
    pub fn is_empty(&self) -> bool {
        self.anchors.is_empty()
    }

    /// Checks that `certificate` (DER; zeros or 0xff behind it, as some TPMs pad, do not matter) chains
    /// at the time `now` to a trusted CA, if need be over `intermediates`, that it is for an endorsement key, and that
    /// this key is the one in `ek_public`, a marshalled `TPM2B_PUBLIC`.
    ///
    /// Revocation is not looked at: TPM makers publish their lists on the internet only.
    ///
    /// # Errors
    /// [`EndorsementError`] naming the check that failed.
    pub fn verify(
        &self,
        certificate: &[u8],
        intermediates: &[CertificateDer<'_>],
        ek_public: &[u8],
        now: UnixTime,
    ) -> Result<Endorser, EndorsementError> {
        let (padding, parsed) =
            X509Certificate::from_der(certificate).map_err(|error| EndorsementError::Certificate(error.to_string()))?;
        let der = CertificateDer::from(certificate.get(..certificate.len() - padding.len()).unwrap_or_default());
        check_key(&parsed, ek_public)?;

        let end_entity =
            EndEntityCert::try_from(&der).map_err(|error| EndorsementError::Certificate(error.to_string()))?;
        end_entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &self.anchors,
                intermediates,
                now,
                KeyUsage::required_if_present(EK_CERTIFICATE),
                None,
                None,
            )
            .map_err(|error| match error {
                webpki::Error::UnknownIssuer => {
                    EndorsementError::UnknownAuthority { issuer: parsed.issuer().to_string() }
                }
                error => EndorsementError::Chain(error.to_string()),
            })?;
        Ok(endorser(&parsed))
    }
}

/// Why an endorsement key certificate, or a CA for such, is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum EndorsementError {
    /// A CA certificate cannot be used.
    #[error("the certificate is not one of a CA for endorsement keys: {0}")]
    Authority(String),
    /// The certificate is malformed.
    #[error("the endorsement key certificate is malformed: {0}")]
    Certificate(String),
    /// The public area is malformed or not of an endorsement key.
    #[error("the public area of the endorsement key: {0}")]
    Public(#[from] PublicAreaError),
    /// The certificate is about another key.
    #[error("the endorsement key certificate was issued for another key")]
    OtherKey,
    /// No accepted CA issued the certificate.
    #[error("no accepted CA issued the endorsement key certificate; its issuer is `{issuer}`")]
    UnknownAuthority {
        /// The issuer's name, as the certificate states it.
        issuer: String,
    },
    /// An accepted CA issued it, but it is not valid.
    #[error("the endorsement key certificate is not valid: {0}")]
    Chain(String),
}

fn check_key(certificate: &X509Certificate<'_>, ek_public: &[u8]) -> Result<(), EndorsementError> {
    let area = PublicArea::parse(ek_public)?;
    area.check_endorsement()?;
    let key = certificate.public_key().parsed().map_err(|error| EndorsementError::Certificate(error.to_string()))?;
    let same = match (area.unique(), key) {
        (Unique::P256 { .. }, PublicKey::EC(_)) => area.p256_spki()? == certificate.public_key().raw,
        (Unique::Rsa { modulus, exponent }, PublicKey::RSA(key)) => {
            without_leading_zeros(key.modulus) == *modulus
                && key.try_exponent().is_ok_and(|found| found == u64::from(*exponent))
        }
        _ => false,
    };
    if same { Ok(()) } else { Err(EndorsementError::OtherKey) }
}

fn without_leading_zeros(integer: &[u8]) -> &[u8] {
    let zeros = integer.iter().take_while(|byte| **byte == 0).count();
    integer.get(zeros..).unwrap_or_default()
}

/// The TPM's maker, model and version are in the directoryName of the subject alternative name (section
/// 3.2.9), whose attributes are TCG's 2.23.133.2.1, .2 and .3.
fn endorser(certificate: &X509Certificate<'_>) -> Endorser {
    let attribute = |oid: &str| {
        certificate
            .subject_alternative_name()
            .ok()
            .flatten()
            .into_iter()
            .flat_map(|extension| &extension.value.general_names)
            .find_map(|name| match name {
                GeneralName::DirectoryName(name) => text(name, oid),
                _ => None,
            })
            .unwrap_or_default()
    };
    Endorser {
        manufacturer: attribute("2.23.133.2.1"),
        model: attribute("2.23.133.2.2"),
        version: attribute("2.23.133.2.3"),
        certificate_serial: certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect(),
        issuer: certificate.issuer().to_string(),
    }
}

fn text(name: &X509Name<'_>, oid: &str) -> Option<String> {
    name.iter_attributes()
        .find(|attribute| attribute.attr_type().to_id_string() == oid)
        .and_then(|attribute| attribute.as_str().ok())
        .map(str::to_owned)
}
