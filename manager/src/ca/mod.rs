//! The certification authority: root CA -> issuing CA -> certificates of devices, gateways and the manager.
//!
//! | file in the state directory | what |
//! |---|---|
//! | `root.pem` | the root's certificate: the trust anchor of images and gateways |
//! | `root.key` | its key; may be taken offline once `issuing.pem` is there |
//! | `issuing.pem`, `issuing.key` | the CA that signs everything else |
//!
//! All keys are ECDSA P-256, PKCS#8 PEM, readable by the owner only.

mod crl;
mod files;
mod key;
mod leaf;

use std::path::Path;

use anyhow::Context;
use m2m_identity::PemKey;
use rcgen::Issuer;
use rustls_pki_types::CertificateDer;
use time::{Duration, OffsetDateTime};

pub(crate) use crl::{Revocation, RevocationList};
pub(crate) use leaf::{Issued, hex};

use key::CaKey;

/// How far certificates and revocation lists begin in the past, for clocks that are behind.
const CLOCK_SKEW: Duration = Duration::minutes(10);

/// The issuing CA, ready to sign.
#[derive(Debug)]
pub(crate) struct Authority {
    root: CertificateDer<'static>,
    issuing: CertificateDer<'static>,
    not_after: OffsetDateTime,
    issuer: Issuer<'static, CaKey>,
}

impl Authority {
    /// Opens the CA in `state_dir`, and makes what of it is not there yet: a first start that was interrupted at any
    /// moment is completed by the next one.
    ///
    /// # Errors
    /// When files are unreadable or do not belong together; what exists is never replaced.
    pub(crate) fn open(state_dir: &Path, organization: &str, now: OffsetDateTime) -> anyhow::Result<Self> {
        let files::Hierarchy { root, issuing, key } = files::open(state_dir, organization, now)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&issuing).context("the issuing CA's certificate")?;
        let not_after = parsed.validity().not_after.to_datetime();
        if not_after <= now {
            anyhow::bail!("the issuing CA's certificate expired at {not_after}: make a new one with the root's key");
        }
        let issuer = Issuer::from_ca_cert_der(&issuing, CaKey(key)).context("the issuing CA's certificate")?;
        Ok(Self { root, issuing, not_after, issuer })
    }

    /// The trust anchor of images and gateways.
    pub(crate) fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The certificate of the CA that signs leaves and revocation lists.
    pub(crate) fn issuing(&self) -> &CertificateDer<'static> {
        &self.issuing
    }
}

/// A fresh key and its PKCS#8 PEM.
pub(crate) fn generate_key() -> anyhow::Result<(PemKey, zeroize::Zeroizing<String>)> {
    let key = PemKey::generate().context("making a key")?;
    let pem = key.to_pem().context("encoding a key")?;
    Ok((key, pem))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn two_starts_keep_the_same_ca_and_keys_are_the_owners_only() {
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = Authority::open(directory.path(), "Example", now).unwrap();
        let second = Authority::open(directory.path(), "Other", now).unwrap();
        assert_eq!(first.root(), second.root());
        assert_eq!(first.issuing(), second.issuing());
        for (file, mode) in [("root.key", 0o600), ("issuing.key", 0o600), ("root.pem", 0o644), ("issuing.pem", 0o644)] {
            let found = directory.path().join(file).metadata().unwrap().permissions().mode() & 0o777;
            assert_eq!(found, mode, "{file}");
        }
    }

    #[test]
    fn a_first_start_cut_anywhere_is_completed() {
        let now = OffsetDateTime::now_utc();
        let complete = tempfile::tempdir().unwrap();
        let whole = Authority::open(complete.path(), "Example", now).unwrap();
        let order = ["root.key", "root.pem", "issuing.key", "issuing.pem"];
        for written in 0..order.len() {
            let cut = tempfile::tempdir().unwrap();
            for file in &order[..written] {
                std::fs::copy(complete.path().join(file), cut.path().join(file)).unwrap();
            }
            let completed = Authority::open(cut.path(), "Example", now).unwrap();
            assert_eq!(completed.root() == whole.root(), written >= 2, "after {written} files");
            assert_eq!(Authority::open(cut.path(), "Example", now).unwrap().issuing(), completed.issuing());
        }
    }

    #[test]
    fn the_root_key_may_be_offline_but_the_issuing_one_may_not() {
        let directory = tempfile::tempdir().unwrap();
        let now = OffsetDateTime::now_utc();
        let first = Authority::open(directory.path(), "Example", now).unwrap();
        std::fs::remove_file(directory.path().join("root.key")).unwrap();
        assert_eq!(Authority::open(directory.path(), "Example", now).unwrap().root(), first.root());

        std::fs::remove_file(directory.path().join("issuing.key")).unwrap();
        let error = format!("{:#}", Authority::open(directory.path(), "Example", now).unwrap_err());
        assert!(error.contains("issuing.key") && error.contains("backup"), "{error}");
    }

    #[test]
    fn files_of_two_cas_are_not_mixed() {
        let now = OffsetDateTime::now_utc();
        let [one, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for directory in [&one, &other] {
            Authority::open(directory.path(), "Example", now).unwrap();
        }
        for file in ["root.pem", "issuing.pem", "issuing.key"] {
            let kept = std::fs::read(one.path().join(file)).unwrap();
            std::fs::copy(other.path().join(file), one.path().join(file)).unwrap();
            assert!(Authority::open(one.path(), "Example", now).is_err(), "{file}");
            std::fs::write(one.path().join(file), kept).unwrap();
        }
        Authority::open(one.path(), "Example", now).unwrap();
    }
}
