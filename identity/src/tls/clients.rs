//! The check of client certificates, with a revocation list that can be replaced while it runs.

use std::sync::{Arc, PoisonError, RwLock};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::{TlsError, TrustAnchors, configuration::provider};

/// Accepts clients whose certificate chains to the trust anchors, has the extended key usage
/// clientAuth, is valid now, and is not revoked.
///
/// Only the leaf's revocation is looked at. With a revocation list, a leaf that no list speaks about
/// (none by its issuer) is refused; without any list, revocation is not looked at. A list that is past its next update stays
/// in force: a manager that is away must not lock every device out.
///
/// A running server takes a new list by [`ClientVerifier::replace_revocation_lists`]: the next handshake
/// uses it, whatever configurations share this verifier. Connections that already stand are the
/// server's to close.
#[derive(Debug)]
pub struct ClientVerifier {
    anchors: TrustAnchors,
    subjects: Vec<DistinguishedName>,
    current: RwLock<Arc<dyn ClientCertVerifier>>,
}

impl ClientVerifier {
    /// Trusts `anchors` and refuses what `revocation_lists` (DER of RFC 5280 CRLs, at most one per
    /// issuer) revoke. The lists' signatures are checked against their issuer in each handshake.
    ///
    /// # Errors
    /// [`TlsError::RevocationList`] when a list is malformed.
    pub fn new(anchors: TrustAnchors, revocation_lists: &[CertificateRevocationListDer<'_>]) -> Result<Self, TlsError> {
        let current = verifier(&anchors, revocation_lists)?;
        Ok(Self { subjects: current.root_hint_subjects().to_vec(), current: RwLock::new(current), anchors })
    }

    /// Uses `revocation_lists` from the next handshake on, in place of all former ones.
    ///
    /// # Errors
    /// [`TlsError::RevocationList`] when a list is malformed; the former ones stay in use.
    pub fn replace_revocation_lists(
        &self,
        revocation_lists: &[CertificateRevocationListDer<'_>],
    ) -> Result<(), TlsError> {
        let replacement = verifier(&self.anchors, revocation_lists)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = replacement;
        Ok(())
    }

    fn current(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn verifier(
    anchors: &TrustAnchors,
    revocation_lists: &[CertificateRevocationListDer<'_>],
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    WebPkiClientVerifier::builder_with_provider(Arc::clone(&anchors.0), provider())
        .with_crls(revocation_lists.iter().map(|list| CertificateRevocationListDer::from(list.to_vec())))
        .only_check_end_entity_revocation()
        .build()
        .map_err(|error| TlsError::RevocationList(error.to_string()))
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.current().verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.current().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.current().supported_verify_schemes()
    }
}
