//! A certification authority like the manager's, and the certificates of servers and devices.

use std::sync::Arc;

use m2m_identity::tls::{Identity, TrustAnchors};
use m2m_identity::{DeviceKey, PemKey, chain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType, SubjectPublicKeyInfo,
};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

pub(crate) struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

/// How a device's certificate differs from the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    None,
    Expired,
    OtherName,
    NoUri,
    ForServers,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca("Root CA"), KeyPair::generate().unwrap()).unwrap();
        let issuing = CertifiedIssuer::signed_by(ca("Issuing CA"), KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, issuing }
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        TrustAnchors::new(std::slice::from_ref(self.root.as_ref().der())).unwrap()
    }

    /// The identity of a server whose certificate began `age` ago and is good for 30 days.
    pub(crate) fn server(&self, name: &str, age: Duration) -> Identity {
        let key: Arc<dyn DeviceKey> = Arc::new(PemKey::generate().unwrap());
        let mut params = leaf(name, age);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Identity::new(self.certify(&params, key.spki_der()), key).unwrap()
    }

    /// The chain of a device, PEM.
    pub(crate) fn device(&self, id: &str, spki: &[u8], flaw: Flaw) -> String {
        let age = if flaw == Flaw::Expired { Duration::days(60) } else { Duration::ZERO };
        let mut params = leaf(if flaw == Flaw::OtherName { "dev-other" } else { id }, age);
        if flaw != Flaw::NoUri {
            params.subject_alt_names = vec![SanType::URI(format!("urn:m2mvpn:device:{id}").try_into().unwrap())];
        }
        params.extended_key_usages = vec![match flaw {
            Flaw::ForServers => ExtendedKeyUsagePurpose::ServerAuth,
            _ => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        chain::to_pem(&self.certify(&params, spki))
    }

    fn certify(&self, params: &CertificateParams, spki: &[u8]) -> Vec<CertificateDer<'static>> {
        let leaf = params.signed_by(&SubjectPublicKeyInfo::from_der(spki).unwrap(), &self.issuing).unwrap();
        vec![leaf.der().clone(), self.issuing.as_ref().der().clone()]
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf(name: &str, age: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = named(name);
    params.not_before = OffsetDateTime::now_utc() - age - Duration::hours(1);
    params.not_after = params.not_before + Duration::days(30);
    params.use_authority_key_identifier_extension = true;
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut names = DistinguishedName::new();
    names.push(DnType::CommonName, name);
    names
}
