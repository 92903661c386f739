//! Certificate revocation lists (RFC 5280 section 5).

use anyhow::Context;
use rcgen::{CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber};
use time::OffsetDateTime;

use super::{Authority, CLOCK_SKEW};
use crate::config::Lifetime;

/// One certificate that is no longer good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Revocation {
    /// The certificate's serial number.
    pub(crate) serial: Vec<u8>,
    pub(crate) at: OffsetDateTime,
    pub(crate) reason: RevocationReason,
}

/// A signed list.
#[derive(Debug, Clone)]
pub(crate) struct RevocationList {
    pub(crate) der: Vec<u8>,
    pub(crate) next_update: OffsetDateTime,
}

impl Authority {
    /// A list of `revoked`, numbered `number`, which has to be higher than that of any list before.
    pub(crate) fn revocation_list(
        &self,
        number: u64,
        revoked: &[Revocation],
        lifetime: Lifetime,
        now: OffsetDateTime,
    ) -> anyhow::Result<RevocationList> {
        let next_update = now + lifetime.as_duration();
        let params = CertificateRevocationListParams {
            this_update: now - CLOCK_SKEW,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            // The same as that of the issuing CA's certificate, so that both give the same identifier.
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).context("signing the revocation list")?;
        Ok(RevocationList { der: list.der().to_vec(), next_update })
    }
}

fn entry(revocation: &Revocation) -> RevokedCertParams {
    RevokedCertParams {
        serial_number: SerialNumber::from_slice(&revocation.serial),
        revocation_time: revocation.at,
        reason_code: Some(revocation.reason),
        invalidity_date: None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use x509_parser::extensions::ParsedExtension;
    use x509_parser::prelude::{CertificateRevocationList, FromDer};
    use x509_parser::x509::ReasonCode;

    use super::*;

    #[test]
    fn a_list_has_number_reasons_and_the_issuers_identifier() {
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let authority = Authority::open(directory.path(), "Example", now).unwrap();
        let revoked = [Revocation { serial: vec![0x41; 16], at: now, reason: RevocationReason::PrivilegeWithdrawn }];
        let list = authority.revocation_list(7, &revoked, Lifetime::days(7), now).unwrap();

        let (_, parsed) = CertificateRevocationList::from_der(&list.der).unwrap();
        let (_, issuing) = x509_parser::parse_x509_certificate(authority.issuing()).unwrap();
        parsed.verify_signature(issuing.public_key()).unwrap();
        assert_eq!(parsed.crl_number().unwrap().to_string(), "7");
        assert_eq!(parsed.next_update().unwrap().timestamp(), list.next_update.unix_timestamp());
        let entry = parsed.iter_revoked_certificates().next().unwrap();
        assert_eq!(entry.raw_serial(), [0x41; 16]);
        assert_eq!(entry.reason_code().unwrap().1, ReasonCode::PrivilegeWithdrawn);

        let own = issuing.iter_extensions().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        let named = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
            _ => None,
        });
        assert_eq!(own, named);
    }
}
