//! TLS for the two ends of a test.

use std::sync::Arc;

use m2m_tunnel::quic;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

pub(crate) const AUTHORITY: &str = "gateway.example";

/// Of a client that trusts the server and has no certificate.
pub(crate) fn configurations() -> (quinn_proto::ClientConfig, quinn_proto::ServerConfig) {
    let certified = rcgen::generate_simple_self_signed(vec![AUTHORITY.to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server_tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client_tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        quic::client_config(client_tls, quic::client_transport(quic::IDLE_TIMEOUT)).unwrap(),
        quic::server_config(server_tls, quic::server_transport(quic::IDLE_TIMEOUT)).unwrap(),
    )
}
