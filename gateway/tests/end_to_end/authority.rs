//! A root, its issuing CA, and what that issues.

use std::path::Path;

use m2m_identity::tls::{Identity, TrustAnchors};
use m2m_identity::{PemKey, chain};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;

pub struct Authority {
    root: CertifiedIssuer<'static, KeyPair>,
    issuing: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let root = CertifiedIssuer::self_signed(ca("Test Root CA"), KeyPair::generate().unwrap()).unwrap();
        let issuing = CertifiedIssuer::signed_by(ca("Test Issuing CA"), KeyPair::generate().unwrap(), &root).unwrap();
        Self { root, issuing }
    }

    pub fn anchors(&self) -> TrustAnchors {
        TrustAnchors::new(&[self.root.der().clone()]).unwrap()
    }

    /// A device whose certificate has the serial number `serial`.
    pub fn device(&self, id: &str, serial: u64) -> Identity {
        self.device_with_uri(id, &format!("urn:m2mvpn:device:{id}"), serial)
    }

    pub fn device_with_uri(&self, id: &str, uri: &str, serial: u64) -> Identity {
        let uri = SanType::URI(uri.try_into().unwrap());
        let (chain, key) = self.leaf(id, uri, ExtendedKeyUsagePurpose::ClientAuth, serial);
        identity(chain, &key)
    }

    /// A server's certificate, for the gateway, and for a client that takes it for its own.
    pub fn server(&self) -> Identity {
        let (chain, key) = self.gateway();
        identity(chain, &key)
    }

    /// Writes the files that `gateway.toml` names.
    pub fn write(&self, directory: &Path) {
        let (chain, key) = self.gateway();
        std::fs::write(directory.join("gateway.pem"), chain::to_pem(&chain)).unwrap();
        std::fs::write(directory.join("gateway.key"), key.serialize_pem()).unwrap();
        std::fs::write(directory.join("client-ca.pem"), chain::to_pem(&[self.root.der().clone()])).unwrap();
    }

    /// The revocation list `number`, DER, good for an hour.
    pub fn revocation_list(&self, number: u64, serials: &[u64]) -> Vec<u8> {
        let now = OffsetDateTime::now_utc();
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now,
            reason_code: None,
            invalidity_date: None,
        };
        CertificateRevocationListParams {
            this_update: now,
            next_update: now + time::Duration::hours(1),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        }
        .signed_by(&self.issuing)
        .unwrap()
        .der()
        .to_vec()
    }

    fn gateway(&self) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let name = SanType::DnsName("gateway.example".try_into().unwrap());
        self.leaf("gateway.example", name, ExtendedKeyUsagePurpose::ServerAuth, 1)
    }

    fn leaf(
        &self,
        name: &str,
        alternative: SanType,
        usage: ExtendedKeyUsagePurpose,
        serial: u64,
    ) -> (Vec<CertificateDer<'static>>, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.subject_alt_names = vec![alternative];
        params.extended_key_usages = vec![usage];
        params.serial_number = Some(SerialNumber::from(serial));
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuing).unwrap();
        (vec![leaf.der().clone(), self.issuing.der().clone()], key)
    }
}

fn ca(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn identity(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Identity {
    Identity::new(chain, std::sync::Arc::new(PemKey::from_pem(&key.serialize_pem()).unwrap())).unwrap()
}
