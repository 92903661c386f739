//! A certification authority like the manager's, for one test: root, issuing CA, leaves, revocation list.

use m2m_identity::{DeviceKey, PemKey, tls::TrustAnchors};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
    SubjectPublicKeyInfo,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};
use time::{Duration, OffsetDateTime};

/// The two CAs.
pub(crate) struct Pki {
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    /// Makes both CAs; `name` is in their names.
    pub(crate) fn new(name: &str) -> Self {
        let root =
            CertifiedIssuer::self_signed(authority(&format!("{name} Root CA")), KeyPair::generate().unwrap()).unwrap();
        let issuing =
            CertifiedIssuer::signed_by(authority(&format!("{name} Issuing CA")), KeyPair::generate().unwrap(), &root)
                .unwrap();
        Self { root, issuing }
    }

    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.root.as_ref().der().clone()
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        TrustAnchors::new(&[self.root()]).unwrap()
    }

    /// A device's chain for `key`.
    pub(crate) fn device(&self, key: &dyn DeviceKey, id: &str, serial: u8) -> Chain {
        let mut params = leaf(id, serial, ExtendedKeyUsagePurpose::ClientAuth);
        params.subject_alt_names = vec![SanType::URI(format!("urn:m2mvpn:device:{id}").try_into().unwrap())];
        self.certify(&params, key.spki_der())
    }

    /// A gateway's or manager's chain for `key`.
    pub(crate) fn server(&self, key: &dyn DeviceKey, name: &str) -> Chain {
        let mut params = leaf(name, 1, ExtendedKeyUsagePurpose::ServerAuth);
        params.subject_alt_names = vec![SanType::DnsName(name.try_into().unwrap())];
        self.certify(&params, key.spki_der())
    }

    /// Any chain for the key in `spki`.
    pub(crate) fn certify(&self, params: &CertificateParams, spki: &[u8]) -> Chain {
        let spki = SubjectPublicKeyInfo::from_der(spki).unwrap();
        let leaf = params.signed_by(&spki, &self.issuing).unwrap();
        vec![leaf.der().clone(), self.issuing.as_ref().der().clone()]
    }

    /// The issuing CA's revocation list.
    pub(crate) fn revoke(&self, serials: &[u8]) -> CertificateRevocationListDer<'static> {
        let now = OffsetDateTime::now_utc();
        CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(7),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from_slice(&[*serial]),
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuing)
        .unwrap()
        .into()
    }
}

/// A leaf and its issuing CA.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

/// A key that is only good for holding its public half.
pub(crate) fn key() -> std::sync::Arc<PemKey> {
    std::sync::Arc::new(PemKey::generate().unwrap())
}

/// The parameters of a leaf, valid from 2020 to 2050.
pub(crate) fn leaf(name: &str, serial: u8, usage: ExtendedKeyUsagePurpose) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = rcgen::date_time_ymd(2020, 1, 1);
    params.not_after = rcgen::date_time_ymd(2050, 1, 1);
    params.serial_number = Some(SerialNumber::from_slice(&[serial]));
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![usage];
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}
