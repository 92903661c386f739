//! The CA's files: what is there is read and held against each other, what is not is made.

use std::path::Path;

use anyhow::{Context, bail};
use m2m_identity::{DeviceKey, PemKey, chain};
use m2m_protocol::durable;
use rcgen::{BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyUsagePurpose};
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};
use x509_parser::certificate::X509Certificate;
use zeroize::Zeroizing;

use super::key::CaKey;
use super::leaf::random_serial;
use super::{CLOCK_SKEW, generate_key};

const ROOT_YEARS: i64 = 20;
const ISSUING_YEARS: i64 = 10;

/// Both CA certificates and the issuing CA's key.
pub(super) struct Hierarchy {
    pub(super) root: CertificateDer<'static>,
    pub(super) issuing: CertificateDer<'static>,
    pub(super) key: PemKey,
}

/// Each step writes one file, and is skipped when the file is there. The caller sees to it that nobody else does the same.
pub(super) fn open(state_dir: &Path, organization: &str, now: OffsetDateTime) -> anyhow::Result<Hierarchy> {
    let (root_path, issuing_path) = (state_dir.join("root.pem"), state_dir.join("issuing.pem"));
    let (root_key_path, issuing_key_path) = (state_dir.join("root.key"), state_dir.join("issuing.key"));
    if issuing_path.exists() {
        let root = read_certificate(&root_path)?;
        let issuing = read_certificate(&issuing_path)?;
        let key = read_key(&issuing_key_path)?;
        return checked(Hierarchy { root, issuing, key }, &root_path, &issuing_path, &issuing_key_path);
    }

    if root_path.exists() && !root_key_path.exists() {
        bail!("{}: is needed to sign the issuing CA; restore it from a backup", root_key_path.display());
    }
    let root_key = CaKey(read_or_make_key(&root_key_path)?);
    let root_params = ca_params(&format!("{organization} Root CA"), organization, None, ROOT_YEARS, now);
    if !root_path.exists() {
        let root = root_params.self_signed(&root_key).context("signing the root CA's certificate")?;
        write(&root_path, chain::to_pem(&[root.der().clone()]).as_bytes(), 0o644)?;
    }
    let root = read_certificate(&root_path)?;

    let key = read_or_make_key(&issuing_key_path)?;
    let root_issuer = Issuer::from_ca_cert_der(&root, root_key).context("the root CA's certificate")?;
    let params = ca_params(&format!("{organization} Issuing CA"), organization, Some(0), ISSUING_YEARS, now);
    let public = rcgen::SubjectPublicKeyInfo::from_der(key.spki_der()).context("the issuing CA's key")?;
    let issuing = params.signed_by(&public, &root_issuer).context("signing the issuing CA's certificate")?;
    let issuing = issuing.der().clone();
    write(&issuing_path, chain::to_pem(std::slice::from_ref(&issuing)).as_bytes(), 0o644)?;
    log::info!("made a new CA; the trust anchor for images and gateways is {}", root_path.display());
    checked(Hierarchy { root, issuing, key }, &root_path, &issuing_path, &issuing_key_path)
}

fn ca_params(
    name: &str,
    organization: &str,
    path_length: Option<u8>,
    years: i64,
    now: OffsetDateTime,
) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, organization);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(path_length.map_or(BasicConstraints::Unconstrained, BasicConstraints::Constrained));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.use_authority_key_identifier_extension = path_length.is_some();
    params.serial_number = Some(random_serial());
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::days(365 * years);
    params
}

/// A restored backup may be of another CA.
fn checked(files: Hierarchy, root_path: &Path, issuing_path: &Path, key_path: &Path) -> anyhow::Result<Hierarchy> {
    let root = parse(&files.root, root_path)?;
    let issuing = parse(&files.issuing, issuing_path)?;
    if issuing.verify_signature(Some(root.public_key())).is_err() || issuing.issuer() != root.subject() {
        bail!(
            "{} was not signed by {}: restore both from the same backup",
            issuing_path.display(),
            root_path.display()
        );
    }
    if issuing.public_key().raw != files.key.spki_der() {
        bail!("{} is not the key of {}: restore both from the same backup", key_path.display(), issuing_path.display());
    }
    Ok(files)
}

fn parse<'a>(certificate: &'a CertificateDer<'_>, path: &Path) -> anyhow::Result<X509Certificate<'a>> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .with_context(|| format!("{}: not a certificate", path.display()))?;
    Ok(parsed)
}

fn read_certificate(path: &Path) -> anyhow::Result<CertificateDer<'static>> {
    let bytes =
        std::fs::read(path).with_context(|| format!("{}: cannot be read; restore it from a backup", path.display()))?;
    let certificates = chain::certificates(&bytes).with_context(|| path.display().to_string())?;
    certificates.into_iter().next().with_context(|| format!("{}: holds no certificate", path.display()))
}

fn read_key(path: &Path) -> anyhow::Result<PemKey> {
    let pem = Zeroizing::new(
        std::fs::read_to_string(path)
            .with_context(|| format!("{}: cannot be read; restore it from a backup", path.display()))?,
    );
    PemKey::from_pem(&pem).with_context(|| path.display().to_string())
}

fn read_or_make_key(path: &Path) -> anyhow::Result<PemKey> {
    if path.exists() {
        return read_key(path);
    }
    let (key, pem) = generate_key()?;
    write(path, pem.as_bytes(), 0o600)?;
    Ok(key)
}

fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    durable::write(path, content, mode).with_context(|| format!("{}: cannot be written", path.display()))
}
