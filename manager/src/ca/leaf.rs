//! The certificates that the issuing CA signs.

use std::net::IpAddr;

use anyhow::{Context, bail};
use m2m_identity::chain;
use m2m_protocol::names::Token;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, SanType,
    SerialNumber, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use time::OffsetDateTime;

use super::{Authority, CLOCK_SKEW};
use crate::config::Lifetime;
use crate::names::ServerName;

/// A certificate that was just signed.
#[derive(Debug, Clone)]
pub(crate) struct Issued {
    pub(crate) der: CertificateDer<'static>,
    /// In lower-case hexadecimal.
    pub(crate) serial: String,
    pub(crate) subject: String,
    /// SHA-256 of the `SubjectPublicKeyInfo`, in hexadecimal.
    pub(crate) key_hash: String,
    pub(crate) not_before: OffsetDateTime,
    pub(crate) not_after: OffsetDateTime,
}

impl Authority {
    /// A certificate for the device `id` with the public key `spki`: CN and `urn:m2mvpn:device:` URI are the id,
    /// extended key usage clientAuth.
    pub(crate) fn device_certificate(
        &self,
        id: &Token,
        spki: &[u8],
        lifetime: Lifetime,
        now: OffsetDateTime,
    ) -> anyhow::Result<Issued> {
        let uri = format!("urn:m2mvpn:device:{id}").try_into().context("the device's URI")?;
        self.leaf(id.as_str(), vec![SanType::URI(uri)], ExtendedKeyUsagePurpose::ClientAuth, spki, lifetime, now)
    }

    /// A certificate for a server with `names`, of which the first is the common name too; extended key usage
    /// serverAuth.
    pub(crate) fn server_certificate(
        &self,
        names: &[ServerName],
        spki: &[u8],
        lifetime: Lifetime,
        now: OffsetDateTime,
    ) -> anyhow::Result<Issued> {
        let Some(first) = names.first() else { bail!("a server's certificate needs at least one name") };
        let alternatives = names.iter().map(alternative_name).collect::<anyhow::Result<_>>()?;
        // A common name has at most 64 characters; only the alternative names count anyway (RFC 9525).
        let common_name: String = first.to_string().chars().take(64).collect();
        self.leaf(&common_name, alternatives, ExtendedKeyUsagePurpose::ServerAuth, spki, lifetime, now)
    }

    /// `leaf` and the issuing CA, PEM: what a TLS peer has to present.
    pub(crate) fn chain_pem(&self, leaf: &CertificateDer<'static>) -> String {
        chain::to_pem(&[leaf.clone(), self.issuing.clone()])
    }

    fn leaf(
        &self,
        common_name: &str,
        subject_alt_names: Vec<SanType>,
        usage: ExtendedKeyUsagePurpose,
        spki: &[u8],
        lifetime: Lifetime,
        now: OffsetDateTime,
    ) -> anyhow::Result<Issued> {
        let serial = random_serial();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.subject_alt_names = subject_alt_names;
        // Explicit, because only then is a subject key identifier written.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(serial.clone());
        params.not_before = now - CLOCK_SKEW;
        params.not_after = (now + lifetime.as_duration()).min(self.not_after);

        let public = SubjectPublicKeyInfo::from_der(spki).context("the public key to be certified")?;
        let certificate = params.signed_by(&public, &self.issuer).context("signing a certificate")?;
        Ok(Issued {
            der: certificate.der().clone(),
            serial: hex(serial.as_ref()),
            subject: format!("CN={common_name}"),
            key_hash: hex(&Sha256::digest(spki)),
            not_before: params.not_before,
            not_after: params.not_after,
        })
    }
}

/// 16 random bytes of which the first is neither negative nor zero, so that DER keeps them as they are.
pub(super) fn random_serial() -> SerialNumber {
    let mut bytes: [u8; 16] = rand::random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn alternative_name(name: &ServerName) -> anyhow::Result<SanType> {
    Ok(match name {
        ServerName::Domain(name) => SanType::DnsName(name.as_str().to_owned().try_into().context("a domain name")?),
        ServerName::Address(address) => SanType::IpAddress(IpAddr::clone(address)),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use m2m_identity::{DeviceKey, PemKey};
    use time::Duration;
    use x509_parser::extensions::{GeneralName, ParsedExtension};

    use super::*;

    fn authority(directory: &tempfile::TempDir) -> Authority {
        Authority::open(directory.path(), "Example", OffsetDateTime::now_utc()).unwrap()
    }

    #[test]
    fn a_device_certificate_says_what_the_gateway_looks_for() {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(&directory);
        let key = PemKey::generate().unwrap();
        let now = OffsetDateTime::now_utc();
        let id: Token = "dev-0123456789abcdef".parse().unwrap();
        let issued = authority.device_certificate(&id, key.spki_der(), Lifetime::days(90), now).unwrap();

        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        let (_, issuing) = x509_parser::parse_x509_certificate(authority.issuing()).unwrap();
        certificate.verify_signature(Some(issuing.public_key())).unwrap();
        assert_eq!(certificate.subject().to_string(), "CN=dev-0123456789abcdef");
        assert_eq!(certificate.public_key().raw, key.spki_der());
        assert_eq!(hex(certificate.raw_serial()), issued.serial);
        assert_eq!(certificate.raw_serial().len(), 16);
        assert!(certificate.validity().not_before.to_datetime() <= now - Duration::minutes(5));
        assert_eq!(certificate.validity().not_after.timestamp(), (now + Duration::days(90)).unix_timestamp());

        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && !usage.server_auth && !usage.any);
        assert!(certificate.key_usage().unwrap().unwrap().value.digital_signature());
        assert!(!certificate.is_ca());
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert_eq!(names.as_slice(), [GeneralName::URI("urn:m2mvpn:device:dev-0123456789abcdef")]);
        let has = |wanted: fn(&ParsedExtension<'_>) -> bool| {
            certificate.iter_extensions().any(|extension| wanted(extension.parsed_extension()))
        };
        assert!(has(|found| matches!(found, ParsedExtension::SubjectKeyIdentifier(_))));
        assert!(has(|found| matches!(found, ParsedExtension::AuthorityKeyIdentifier(_))));
    }

    #[test]
    fn no_leaf_outlives_its_issuer() {
        let directory = tempfile::tempdir().unwrap();
        let authority = authority(&directory);
        let key = PemKey::generate().unwrap();
        let names = ["gateway.example".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let now = OffsetDateTime::now_utc() + Duration::days(365 * 9);
        let issued = authority.server_certificate(&names, key.spki_der(), Lifetime::days(7300), now).unwrap();
        assert_eq!(issued.not_after, authority.not_after);
        let (_, certificate) = x509_parser::parse_x509_certificate(&issued.der).unwrap();
        let names = &certificate.subject_alternative_name().unwrap().unwrap().value.general_names;
        assert!(names.contains(&GeneralName::DNSName("gateway.example")), "{names:?}");
        assert_eq!(names.len(), 2);
    }
}
