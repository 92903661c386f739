//! PKCS#10 certificate requests as they come from devices (RFC 2986).

use std::path::Path;

use anyhow::Context;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// `AlgorithmIdentifier` of a P-256 key, RFC 5480: id-ecPublicKey, secp256r1.
const P256: [u8; 21] = [
    0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03,
    0x01, 0x07,
];

/// A request whose signature was made with the key that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SigningRequest {
    /// The subject, such as `CN=SN-0001`.
    pub(crate) subject: String,
    /// The URIs among the requested alternative names; other names are refused.
    pub(crate) uris: Vec<String>,
    /// DER of the `SubjectPublicKeyInfo`: ECDSA P-256.
    pub(crate) spki: Vec<u8>,
}

/// Reads `der`. Names and extensions in it are wishes: what a certificate says is the issuer's decision.
///
/// # Errors
/// A sentence that says what is wrong with the request.
pub(crate) fn parse(der: &[u8]) -> Result<SigningRequest, String> {
    let (rest, request) = X509CertificationRequest::from_der(der)
        .map_err(|error| format!("expected the DER of a PKCS#10 request: {error}"))?;
    if !rest.is_empty() {
        return Err("expected one PKCS#10 request and nothing behind it".to_owned());
    }
    let info = &request.certification_request_info;
    let spki = info.subject_pki.raw;
    // SEQUENCE, length 0x59, AlgorithmIdentifier, BIT STRING of an uncompressed point.
    if spki.get(2..2 + P256.len()) != Some(&P256) || spki.len() != 91 {
        return Err("expected a request for an ECDSA P-256 key".to_owned());
    }
    request.verify_signature().map_err(|_| "its signature was not made with the key that it holds".to_owned())?;
    let mut uris = Vec::new();
    for extension in request.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            let GeneralName::URI(uri) = name else {
                return Err("expected no alternative name other than the device's URI".to_owned());
            };
            uris.push((*uri).to_owned());
        }
    }
    Ok(SigningRequest { subject: info.subject.to_string(), uris, spki: spki.to_vec() })
}

/// Reads the request in the file `path`, PEM or DER.
pub(crate) fn read(path: &Path) -> anyhow::Result<SigningRequest> {
    let bytes = std::fs::read(path).with_context(|| format!("{}: cannot be read", path.display()))?;
    let der = match bytes.first() {
        Some(0x30) => bytes,
        _ => pem::parse(bytes)
            .with_context(|| format!("{}: expected a PKCS#10 request, PEM or DER", path.display()))?
            .into_contents(),
    };
    parse(&der).map_err(|problem| anyhow::anyhow!("{}: {problem}", path.display()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use m2m_identity::{DeviceKey, PemKey, certificate_request};

    use super::*;

    #[test]
    fn reads_a_request_and_refuses_one_that_was_tampered_with() {
        let key = PemKey::generate().unwrap();
        let der = certificate_request(&key, "SN-0001").unwrap();
        let request = parse(&der).unwrap();
        assert_eq!(request.subject, "CN=SN-0001");
        assert_eq!(request.spki, key.spki_der());

        let position = der.windows(7).position(|window| window == b"SN-0001").unwrap();
        let mut other_name = der.clone();
        other_name[position] = b'X';
        assert!(parse(&other_name).unwrap_err().contains("signature"));
        let mut longer = der.clone();
        longer.push(0);
        assert!(parse(&longer).unwrap_err().contains("nothing behind"));
        assert!(parse(&der[..der.len() - 1]).unwrap_err().contains("PKCS#10"));
    }

    #[test]
    fn refuses_keys_other_than_p256() {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        assert!(parse(request.der()).unwrap_err().contains("P-256"));
    }

    proptest::proptest! {
        #[test]
        fn never_panics_on_rubbish(bytes: Vec<u8>) {
            proptest::prop_assert!(parse(&bytes).is_err());
        }
    }
}
