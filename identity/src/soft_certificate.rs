//! A software key with its certificates in one file, protected by a PIN: PKCS #12 (RFC 7292).

use p12_keystore::{Pkcs12Archive, error::Error};
use rustls_pki_types::CertificateDer;

use crate::{DeviceKey, KeyError, PemKey, chain};

/// What a `.p12` or `.pfx` file holds. OpenSSL's old ones (RC2 and Triple DES) are read as well as its new ones (AES).
#[derive(Debug)]
pub struct SoftCertificate {
    /// The private key.
    pub key: PemKey,
    /// Its certificate and those of the issuers that are in the file, but the root.
    pub chain: Vec<CertificateDer<'static>>,
}

impl SoftCertificate {
    /// Opens the content of a file.
    ///
    /// # Errors
    /// [`SoftCertificateError`].
    pub fn open(file: &[u8], pin: &str) -> Result<Self, SoftCertificateError> {
        let archive = Pkcs12Archive::from_pkcs12(file, pin).map_err(|error| match error {
            Error::MacError(_) => SoftCertificateError::WrongPin,
            error => SoftCertificateError::Malformed(error.to_string()),
        })?;
        let [key] = archive.keys.as_slice() else {
            return Err(SoftCertificateError::NotOneKey(archive.keys.len()));
        };
        let key = PemKey::from_pkcs8(key.key.as_der())?;
        let certificates: Vec<_> = archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der())).collect();
        let chain = chain::order(key.spki_der(), &certificates).ok_or(SoftCertificateError::NoCertificate)?;
        Ok(Self { key, chain })
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SoftCertificateError {
    /// The PIN does not open it.
    #[error("the PIN is wrong")]
    WrongPin,
    /// It is no PKCS #12 file, or one of a kind that is not supported.
    #[error("no usable PKCS #12 file: {0}")]
    Malformed(String),
    /// It has none or several.
    #[error("expected one private key in the file, found {0}")]
    NotOneKey(usize),
    /// None of its certificates is for the key.
    #[error("the file has no certificate for its private key")]
    NoCertificate,
    /// The key is not of a kind that is supported.
    #[error(transparent)]
    Key(#[from] KeyError),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::{fs, path::Path, process::Command};

    use proptest::prelude::*;
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    const PIN: &str = "4711 für die Äpfel";

    /// Runs a script with OpenSSL in a directory of its own, and reads `device.p12` from there.
    fn made_by_openssl(export: &str) -> Vec<u8> {
        let directory = tempfile::tempdir().unwrap();
        let script = format!(
            r#"set -e
            ec="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc"
            openssl req -x509 $ec -subj "/CN=root" -addext "basicConstraints=critical,CA:TRUE" -keyout root.key -out root.pem
            openssl req -x509 $ec -subj "/CN=issuing" -CA root.pem -CAkey root.key \
                -addext "basicConstraints=critical,CA:TRUE" -keyout issuing.key -out issuing.pem
            openssl req -x509 $ec -subj "/CN=atm-0001" -CA issuing.pem -CAkey issuing.key -keyout device.key -out device.pem
            cat root.pem issuing.pem > issuers.pem
            {export}"#
        );
        let output = Command::new("sh").args(["-c", &script]).env("PIN", PIN).current_dir(&directory).output();
        let output = output.expect("openssl is needed by this test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(directory.path().join("device.p12")).unwrap()
    }

    const EXPORT: &str = "openssl pkcs12 -export -inkey device.key -in device.pem -certfile issuers.pem -passout env:PIN -out device.p12";

    fn assert_opens(file: &[u8]) {
        let opened = SoftCertificate::open(file, PIN).unwrap();
        let subjects: Vec<String> =
            opened.chain.iter().map(|der| X509Certificate::from_der(der).unwrap().1.subject().to_string()).collect();
        assert_eq!(subjects, ["CN=atm-0001", "CN=issuing"]);
        opened.key.sign(b"message").unwrap();
    }

    #[test]
    fn files_of_openssl_3_open() {
        assert_opens(&made_by_openssl(EXPORT));
    }

    #[test]
    fn files_with_triple_des_open() {
        assert_opens(&made_by_openssl(&format!(
            "{EXPORT} -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1 -iter 2048"
        )));
    }

    #[test]
    fn files_with_rc2_open() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/legacy-rc2.p12");
        assert_opens(&fs::read(file).unwrap());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let file = made_by_openssl(EXPORT);
        for pin in ["", "4711", "4711 für die äpfel"] {
            assert!(matches!(SoftCertificate::open(&file, pin), Err(SoftCertificateError::WrongPin)), "{pin}");
        }
        let cut = SoftCertificate::open(&file[..file.len() - 1], PIN).unwrap_err();
        assert!(matches!(cut, SoftCertificateError::Malformed(_)), "{cut}");
        let keyless = made_by_openssl("openssl pkcs12 -export -nokeys -in device.pem -passout env:PIN -out device.p12");
        assert!(matches!(SoftCertificate::open(&keyless, PIN), Err(SoftCertificateError::NotOneKey(0))));
        let export = EXPORT.replace("-in device.pem", "-nocerts").replace("-certfile issuers.pem", "");
        let bare = made_by_openssl(&export);
        assert!(matches!(SoftCertificate::open(&bare, PIN), Err(SoftCertificateError::NoCertificate)));
        let rsa = "openssl req -x509 -newkey rsa:2048 -noenc -subj /CN=rsa -keyout device.key -out device.pem";
        let error = SoftCertificate::open(&made_by_openssl(&format!("{rsa}\n{EXPORT}")), PIN).unwrap_err();
        assert!(matches!(error, SoftCertificateError::Key(KeyError::NotP256(_))), "{error}");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(SoftCertificate::open(&bytes, PIN).is_err());
        }
    }
}
