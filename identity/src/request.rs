//! PKCS#10 certificate requests (RFC 2986).

use rcgen::{
    CertificateParams, DistinguishedName, DnType, PKCS_ECDSA_P256_SHA256, PublicKeyData, SignatureAlgorithm, SigningKey,
};

use crate::{DeviceKey, KeyError, spki};

/// A PKCS#10 request, DER, for `key` with the subject `CN=<common_name>` and no extensions: names,
/// key usage and validity are the issuer's to decide.
///
/// # Errors
/// [`RequestError::Key`] when the key cannot sign, [`RequestError::Encoding`] when the name cannot
/// be encoded.
pub fn certificate_request(key: &dyn DeviceKey, common_name: &str) -> Result<Vec<u8>, RequestError> {
    let point = spki::point(key.spki_der()).ok_or(RequestError::NotP256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let signer = RequestSigner { key, point, failure: std::sync::Mutex::new(None) };
    match params.serialize_request(&signer) {
        Ok(request) => Ok(request.der().to_vec()),
        Err(error) => Err(match signer.take_failure() {
            Some(failure) => RequestError::Key(failure),
            None => RequestError::Encoding(error),
        }),
    }
}

/// Why a certificate request could not be made.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The key is not an ECDSA P-256 key.
    #[error("the key is not an ECDSA P-256 key")]
    NotP256,
    /// The key failed to sign.
    #[error("the key could not sign the certificate request")]
    Key(#[source] KeyError),
    /// The request could not be encoded.
    #[error("the certificate request could not be encoded")]
    Encoding(#[source] rcgen::Error),
}

/// rcgen reports any remote failure as one opaque error, so the key's own is kept here.
struct RequestSigner<'a> {
    key: &'a dyn DeviceKey,
    point: &'a [u8],
    failure: std::sync::Mutex<Option<KeyError>>,
}

impl RequestSigner<'_> {
    fn take_failure(&self) -> Option<KeyError> {
        self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl PublicKeyData for RequestSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.point
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ECDSA_P256_SHA256
    }
}

impl SigningKey for RequestSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.key.sign(message).map_err(|error| {
            *self.failure.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            rcgen::Error::RemoteKeyError
        })
    }
}
