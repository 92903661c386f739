//! The certificate revocation list: read, believed only with its issuer's signature, compared with the one before.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::device_certificate::{DeviceCertificate, without_leading_zeros};

/// The CAs whose revocation lists are believed.
#[derive(Debug)]
pub(crate) struct Issuers(Vec<CertificateDer<'static>>);

impl Issuers {
    /// Takes `trusted`, and of `others` (certificates that came with the gateway's own) those that one of `trusted` has signed.
    pub(crate) fn new(trusted: &[CertificateDer<'static>], others: &[CertificateDer<'static>]) -> Self {
        let mut issuers = trusted.to_vec();
        for other in others {
            let signed = parse(other).is_some_and(|other| {
                let signature = Signature {
                    oid: other.signature_algorithm.algorithm.as_bytes(),
                    message: other.tbs_certificate.as_ref(),
                    value: &other.signature_value.data,
                };
                let issuer = other.issuer().as_raw();
                trusted
                    .iter()
                    .filter_map(parse)
                    .any(|ca| is_ca(&ca) && ca.subject().as_raw() == issuer && signature.is_by(&ca))
            });
            if signed && !issuers.contains(other) {
                issuers.push(other.clone());
            }
        }
        Self(issuers)
    }
}

/// A revocation list whose signature has been verified.
#[derive(Debug, Clone)]
pub(crate) struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    issuer: Vec<u8>,
    number: Vec<u8>,
    this_update: SystemTime,
    next_update: SystemTime,
    revoked: HashSet<Vec<u8>>,
}

impl RevocationList {
    /// Reads a list, DER or PEM (`X509 CRL`), and verifies that one of `issuers` signed it.
    ///
    /// # Errors
    /// [`ListError`].
    pub(crate) fn read(bytes: &[u8], issuers: &Issuers) -> Result<Self, ListError> {
        let der = to_der(bytes)?;
        let Ok((rest, list)) = CertificateRevocationList::from_der(&der) else { return Err(ListError::Malformed) };
        if !rest.is_empty() {
            return Err(ListError::Malformed);
        }
        let signature = Signature {
            oid: list.signature_algorithm.algorithm.as_bytes(),
            message: list.tbs_cert_list.as_ref(),
            value: &list.signature_value.data,
        };
        let issuer = list.issuer().as_raw();
        let mut known = issuers.0.iter().filter_map(parse).filter(|ca| ca.subject().as_raw() == issuer).peekable();
        if known.peek().is_none() {
            return Err(ListError::UnknownIssuer { issuer: list.issuer().to_string() });
        }
        if !known.any(|ca| is_list_signer(&ca) && signature.is_by(&ca)) {
            return Err(ListError::Signature { issuer: list.issuer().to_string() });
        }
        let next_update = list.next_update().ok_or(ListError::NoNextUpdate)?;
        Ok(Self {
            issuer: issuer.to_vec(),
            number: list.crl_number().map(|number| number.to_bytes_be()).unwrap_or_default(),
            this_update: system_time(list.last_update().timestamp()),
            next_update: system_time(next_update.timestamp()),
            revoked: list
                .iter_revoked_certificates()
                .map(|entry| without_leading_zeros(entry.raw_serial()).to_vec())
                .collect(),
            der: CertificateRevocationListDer::from(der.clone()),
        })
    }

    /// The list, DER.
    pub(crate) fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }

    /// Whether it names `certificate`.
    pub(crate) fn revokes(&self, certificate: &DeviceCertificate) -> bool {
        certificate.issuer == self.issuer && self.revoked.contains(&certificate.serial)
    }

    /// Whether it still counts at `now`.
    pub(crate) fn is_fresh(&self, now: SystemTime, grace: Duration) -> bool {
        now <= self.next_update + grace
    }

    /// Whether it was made after `other`, or is the same one. An older list would let revoked devices in again.
    pub(crate) fn is_not_older_than(&self, other: &Self) -> bool {
        if self.issuer == other.issuer && !self.number.is_empty() && !other.number.is_empty() {
            return (self.number.len(), &self.number) >= (other.number.len(), &other.number);
        }
        self.this_update >= other.this_update
    }

    /// When it was made.
    pub(crate) fn this_update(&self) -> SystemTime {
        self.this_update
    }

    /// When its issuer promised the next one.
    pub(crate) fn next_update(&self) -> SystemTime {
        self.next_update
    }

    /// The number of certificates that it names.
    pub(crate) fn len(&self) -> usize {
        self.revoked.len()
    }
}

/// Why a revocation list is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ListError {
    /// It is neither DER nor PEM of a list.
    #[error("expected a certificate revocation list, DER or PEM (X509 CRL)")]
    Malformed,
    /// No CA of that name is known.
    #[error("issued by {issuer}, whose certificate is neither in client_ca nor in the gateway's own chain")]
    UnknownIssuer {
        /// The name.
        issuer: String,
    },
    /// The signature is wrong, or the CA may not sign lists.
    #[error("not signed by {issuer} as it claims")]
    Signature {
        /// The name.
        issuer: String,
    },
    /// It does not say when it ends (RFC 5280 section 5.1.2.5 demands it).
    #[error("without nextUpdate")]
    NoNextUpdate,
    /// There is a newer one already.
    #[error("older than the one in use")]
    Older,
}

struct Signature<'a> {
    oid: &'a [u8],
    message: &'a [u8],
    value: &'a [u8],
}

impl Signature<'_> {
    /// Whether the key of `ca` made it, by any algorithm of this object identifier that webpki knows.
    fn is_by(&self, ca: &X509Certificate<'_>) -> bool {
        let key = &ca.public_key().subject_public_key.data;
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|algorithm| {
                // The DER of an AlgorithmIdentifier's content: 06, the length, the object identifier, parameters.
                algorithm.signature_alg_id().as_ref().get(2..).is_some_and(|id| id.starts_with(self.oid))
            })
            .any(|algorithm| algorithm.verify_signature(key, self.message, self.value).is_ok())
    }
}

fn to_der(bytes: &[u8]) -> Result<Vec<u8>, ListError> {
    const DER_SEQUENCE: u8 = 0x30;
    if bytes.first() == Some(&DER_SEQUENCE) {
        return Ok(bytes.to_vec());
    }
    match x509_parser::pem::parse_x509_pem(bytes) {
        Ok((_, block)) if block.label == "X509 CRL" => Ok(block.contents),
        _ => Err(ListError::Malformed),
    }
}

fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    x509_parser::parse_x509_certificate(certificate).ok().map(|(_, certificate)| certificate)
}

fn is_ca(certificate: &X509Certificate<'_>) -> bool {
    certificate.basic_constraints().ok().flatten().is_some_and(|constraints| constraints.value.ca)
}

fn is_list_signer(certificate: &X509Certificate<'_>) -> bool {
    let allowed = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.crl_sign(),
        Ok(None) => true,
        Err(_) => false,
    };
    allowed && is_ca(certificate)
}

fn system_time(unix_seconds: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(unix_seconds).unwrap_or(0))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
        KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
    };
    use time::OffsetDateTime;

    use super::*;

    type Ca = CertifiedIssuer<'static, KeyPair>;

    fn ca_params(name: &str, usages: &[KeyUsagePurpose]) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = usages.to_vec();
        params
    }

    fn ca(name: &str, usages: &[KeyUsagePurpose]) -> Ca {
        CertifiedIssuer::self_signed(ca_params(name, usages), KeyPair::generate().unwrap()).unwrap()
    }

    const SIGNER: &[KeyUsagePurpose] = &[KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];

    fn list(ca: &Ca, number: u64, serials: &[&[u8]]) -> Vec<u8> {
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::hours(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(serial),
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(ca).unwrap().der().to_vec()
    }

    fn certificate(ca: &Ca, serial: &[u8]) -> DeviceCertificate {
        let (_, issuer) = x509_parser::parse_x509_certificate(ca.der()).unwrap();
        DeviceCertificate {
            device: "dev-1".parse().unwrap(),
            issuer: issuer.subject().as_raw().to_vec(),
            serial: serial.to_vec(),
        }
    }

    #[test]
    fn names_the_revoked_certificates_of_its_issuer() {
        let (one, other) = (ca("one", SIGNER), ca("other", SIGNER));
        let issuers = Issuers::new(&[one.der().clone()], &[]);
        let list = RevocationList::read(&list(&one, 1, &[&[0x81, 0x02]]), &issuers).unwrap();
        assert!(list.revokes(&certificate(&one, &[0x81, 0x02])));
        assert!(!list.revokes(&certificate(&one, &[0x81, 0x03])));
        assert!(!list.revokes(&certificate(&other, &[0x81, 0x02])));
        assert_eq!(list.len(), 1);
    }

    #[test]
    fn is_believed_only_with_its_issuers_signature() {
        let (one, namesake) = (ca("one", SIGNER), ca("one", SIGNER));
        let issuers = Issuers::new(&[one.der().clone()], &[]);
        let good = list(&one, 1, &[]);
        assert!(RevocationList::read(&good, &issuers).is_ok());
        let read = |bytes: &[u8]| RevocationList::read(bytes, &issuers).unwrap_err();
        assert!(matches!(read(&list(&namesake, 1, &[])), ListError::Signature { .. }));
        assert!(matches!(read(&list(&ca("stranger", SIGNER), 1, &[])), ListError::UnknownIssuer { .. }));
        assert_eq!(read(b"<html>"), ListError::Malformed);
        assert_eq!(read(&good[..good.len() - 1]), ListError::Malformed);
        assert_eq!(read(&[good.as_slice(), b"x"].concat()), ListError::Malformed);
        let mut changed = good;
        let last = changed.len() - 1;
        changed[last] ^= 1;
        assert!(RevocationList::read(&changed, &issuers).is_err());
    }

    #[test]
    fn an_issuing_ca_of_the_gateways_chain_counts_if_a_trusted_one_signed_it() {
        let root = ca("root", SIGNER);
        let issuing =
            CertifiedIssuer::signed_by(ca_params("issuing", SIGNER), KeyPair::generate().unwrap(), &root).unwrap();
        let bytes = list(&issuing, 1, &[]);
        let with = |trusted: &Ca| Issuers::new(&[trusted.der().clone()], &[issuing.der().clone()]);
        assert!(RevocationList::read(&bytes, &with(&root)).is_ok());
        let stranger = ca("root", SIGNER);
        assert!(matches!(RevocationList::read(&bytes, &with(&stranger)), Err(ListError::UnknownIssuer { .. })));
    }

    #[test]
    fn pem_is_read_as_well() {
        let one = ca("one", SIGNER);
        let der = list(&one, 1, &[]);
        let pem = format!("-----BEGIN X509 CRL-----\n{}\n-----END X509 CRL-----\n", {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(&der)
        });
        let read = RevocationList::read(pem.as_bytes(), &Issuers::new(&[one.der().clone()], &[])).unwrap();
        assert_eq!(read.der().as_ref(), der);
    }

    #[test]
    fn newer_by_number_and_fresh_until_grace_is_over() {
        let one = ca("one", SIGNER);
        let issuers = Issuers::new(&[one.der().clone()], &[]);
        let read = |number| RevocationList::read(&list(&one, number, &[]), &issuers).unwrap();
        let (low, high) = (read(0xff), read(0x0100));
        assert!(high.is_not_older_than(&low) && !low.is_not_older_than(&high) && low.is_not_older_than(&low));
        let end = low.next_update();
        assert!(low.is_fresh(end + Duration::from_secs(9), Duration::from_secs(10)));
        assert!(!low.is_fresh(end + Duration::from_secs(11), Duration::from_secs(10)));
    }
}
