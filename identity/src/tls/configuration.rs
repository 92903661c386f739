//! The two builders.

use std::sync::{Arc, LazyLock};

use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::{Resumption, WebPkiServerVerifier, danger::HandshakeSignatureValid},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    time_provider::TimeProvider,
    version::TLS13,
};

use super::{ClientVerifier, Identity, TlsError, TrustAnchors};

/// What a client's configuration is made of.
#[derive(Debug)]
pub struct ClientTls<'a> {
    /// The CAs that the server's chain must end in.
    pub anchors: &'a TrustAnchors,
    /// The client's own certificate and key; `None` for a client that has none yet.
    pub identity: Option<&'a Identity>,
    /// The application protocols offered, such as `h3` or `http/1.1`, best first.
    pub alpn: &'a [&'a [u8]],
    /// The time by which the server's certificate is judged, such as [`super::FlooredClock`].
    pub clock: Arc<dyn TimeProvider>,
}

/// What a server's configuration is made of.
#[derive(Debug)]
pub struct ServerTls<'a> {
    /// The server's own certificate and key.
    pub identity: &'a Identity,
    /// What is asked of clients.
    pub clients: ClientAuthentication,
    /// The application protocols spoken, best first.
    pub alpn: &'a [&'a [u8]],
}

/// What a server asks of its clients.
#[derive(Clone, Debug)]
pub enum ClientAuthentication {
    /// A certificate that the verifier accepts.
    Required(Arc<ClientVerifier>),
    /// A certificate that the verifier accepts, or none at all.
    Optional(Arc<ClientVerifier>),
    /// Clients are not asked for a certificate.
    None,
}

/// The configuration of a client: vpnd towards manager and gateway.
///
/// The server's certificate must chain to `tls.anchors`, be valid at `tls.clock`'s time, name the server,
/// and have the extended key usage serverAuth. The key exchange groups are those of the module.
///
/// # Errors
/// [`TlsError::Configuration`] when rustls refuses.
pub fn client_config(tls: ClientTls<'_>) -> Result<ClientConfig, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::clone(&tls.anchors.0), provider())
        .build()
        .map_err(|error| TlsError::Configuration(Error::General(error.to_string())))?;
    let builder = ClientConfig::builder_with_details(provider(), tls.clock)
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Configuration)?
        .with_webpki_verifier(verifier);
    let mut config = match tls.identity {
        Some(identity) => builder.with_client_cert_resolver(identity.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = tls.alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

/// The configuration of a server: gateway and manager.
///
/// # Errors
/// [`TlsError::Configuration`] when rustls refuses.
pub fn server_config(tls: ServerTls<'_>) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::Configuration)?;
    let builder = match tls.clients {
        ClientAuthentication::Required(verifier) => builder.with_client_cert_verifier(verifier),
        ClientAuthentication::Optional(verifier) => {
            builder.with_client_cert_verifier(Arc::new(OptionalClient(verifier)))
        }
        ClientAuthentication::None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(tls.identity.resolver());
    config.alpn_protocols = tls.alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    Ok(config)
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups =
            vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519, aws_lc_rs::kx_group::SECP256R1];
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// A verifier that lets clients without a certificate pass; those that show one must show a good one.
#[derive(Debug)]
struct OptionalClient(Arc<ClientVerifier>);

impl ClientCertVerifier for OptionalClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.0.verify_client_cert(end_entity, intermediates, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
