//! The TLS configurations of device, gateway and manager.
//!
//! TLS 1.3 only. Key exchange X25519MLKEM768 first, then X25519 and P-256. No resumption and no early
//! data, on neither side: a resumed session would not use the private key, so that the peer would
//! no longer be proven to hold it.

mod clients;
mod clock;
mod configuration;
mod signer;

use std::sync::Arc;

use rustls::{
    RootCertStore,
    pki_types::CertificateDer,
    sign::{CertifiedKey, SingleCertAndKey},
};

use crate::{DeviceKey, chain};

pub use clients::ClientVerifier;
pub use clock::FlooredClock;
pub use configuration::{ClientAuthentication, ClientTls, ServerTls, client_config, server_config};

/// A certificate chain, leaf first, with the leaf's private key.
#[derive(Clone, Debug)]
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<dyn DeviceKey>,
}

impl Identity {
    /// Joins `chain` (leaf first, then the issuing CAs, the root may be left out) with `key`.
    ///
    /// # Errors
    /// [`TlsError::Identity`] when the chain is empty or its leaf was issued for another key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: Arc<dyn DeviceKey>) -> Result<Self, TlsError> {
        let identity = Self { chain, key };
        identity.certified_key().keys_match().map_err(TlsError::Identity)?;
        Ok(identity)
    }

    /// The certificates, leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The leaf's private key.
    pub fn key(&self) -> &Arc<dyn DeviceKey> {
        &self.key
    }

    fn certified_key(&self) -> CertifiedKey {
        CertifiedKey::new(self.chain.clone(), Arc::new(signer::Signing(Arc::clone(&self.key))))
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(self.certified_key()))
    }
}

/// The CAs that a peer's chain must end in; nothing of the operating system's store is in it.
#[derive(Clone, Debug)]
pub struct TrustAnchors(Arc<RootCertStore>);

impl TrustAnchors {
    /// Takes every certificate in `bytes`: PEM, or the DER of one.
    ///
    /// # Errors
    /// [`TlsError::TrustAnchors`] when there is none or one is malformed.
    pub fn parse(bytes: &[u8]) -> Result<Self, TlsError> {
        Self::new(&chain::certificates(bytes)?)
    }

    /// Takes `certificates`.
    ///
    /// # Errors
    /// [`TlsError::TrustAnchor`] when one cannot serve as a trust anchor,
    /// [`TlsError::NoTrustAnchor`] when there is none.
    pub fn new(certificates: &[CertificateDer<'_>]) -> Result<Self, TlsError> {
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            store.add(certificate.clone().into_owned()).map_err(TlsError::TrustAnchor)?;
        }
        if store.is_empty() {
            return Err(TlsError::NoTrustAnchor);
        }
        Ok(Self(Arc::new(store)))
    }
}

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Certificate chain and private key do not belong together.
    #[error("the certificate chain and the private key do not belong together")]
    Identity(#[source] rustls::Error),
    /// The trust anchors cannot be read.
    #[error("the trust anchors cannot be read")]
    TrustAnchors(#[from] chain::ChainError),
    /// A certificate cannot be a trust anchor.
    #[error("a certificate cannot serve as a trust anchor")]
    TrustAnchor(#[source] rustls::Error),
    /// The set of trust anchors is empty.
    #[error("no trust anchor given: expected at least one CA certificate")]
    NoTrustAnchor,
    /// A revocation list is malformed or of a form that is not supported.
    #[error("the certificate revocation list cannot be used: {0}")]
    RevocationList(String),
    /// rustls refused the configuration.
    #[error("the TLS configuration is not possible")]
    Configuration(#[source] rustls::Error),
}
