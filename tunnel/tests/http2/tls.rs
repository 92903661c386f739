//! Over TCP and TLS 1.3 with a certificate on each side, as devices and gateways do it.

use std::{net::Ipv4Addr, sync::Arc};

use m2m_tunnel::{
    client::{ConnectError, ConnectRequest},
    http2::{self, Http2Tunnel, tcp},
    session::CloseReason,
};
use rcgen::{CertifiedKey, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use crate::ends::{AUTHORITY, packets, soon, tunnel_over};

/// Configurations that trust each other; the client has no certificate when it is not to have one.
pub(crate) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    pub(crate) fn new(client_has_certificate: bool) -> Self {
        let (gateway, device) = (certified(AUTHORITY), certified("device.example"));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(roots(&device), Arc::clone(&provider)).build();
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier.unwrap())
            .with_single_cert(vec![gateway.cert.der().clone()], key(&gateway))
            .unwrap();
        server.alpn_protocols = vec![http2::ALPN.to_vec()];
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots(&gateway));
        let mut client = if client_has_certificate {
            client.with_client_auth_cert(vec![device.cert.der().clone()], key(&device)).unwrap()
        } else {
            client.with_no_client_auth()
        };
        client.alpn_protocols = vec![http2::ALPN.to_vec()];
        Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() }
    }

    /// The client's handshake over a connection that is there.
    pub(crate) async fn connect(&self, tcp: TcpStream) -> std::io::Result<client::TlsStream<tcp::ShortQueue>> {
        self.connector.connect(AUTHORITY.try_into().unwrap(), tcp::ShortQueue::new(tcp)?).await
    }

    /// The server's handshake with the next client.
    pub(crate) async fn accept(&self, listener: &TcpListener) -> std::io::Result<server::TlsStream<tcp::ShortQueue>> {
        let (tcp, _) = listener.accept().await?;
        self.acceptor.accept(tcp::ShortQueue::new(tcp)?).await
    }
}

fn certified(name: &str) -> CertifiedKey<KeyPair> {
    rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap()
}

fn key(of: &CertifiedKey<KeyPair>) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(of.signing_key.serialize_der()))
}

fn roots(of: &CertifiedKey<KeyPair>) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add(of.cert.der().clone()).unwrap();
    roots.into()
}

pub(crate) async fn listener() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_pass_both_ways() {
    let (tls, listener) = (Tls::new(true), listener().await);
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (near, far) = soon(async { tokio::join!(tls.connect(tcp), tls.accept(&listener)) }).await;
    let (near, far) = (near.unwrap(), far.unwrap());
    assert_eq!(near.get_ref().1.alpn_protocol(), Some(http2::ALPN));
    let (client, server) = tunnel_over(near, far).await;
    let Http2Tunnel { sender: mut up, receiver: mut down_end, .. } = client;
    let Http2Tunnel { sender: mut down, receiver: mut up_end, mut pinger, .. } = server;
    let sent: Vec<Vec<u8>> = (0..20_000_usize).map(|index| vec![index as u8; 40 + index % 1360]).collect();
    let sending = async {
        let (there, back) = (sent.iter().map(Vec::as_slice), sent.iter().map(Vec::as_slice));
        let (there, back) = tokio::join!(up.send_packets(there), down.send_packets(back));
        there.and(back).unwrap();
    };
    let receiving = async { tokio::join!(packets(&mut up_end, sent.len()), packets(&mut down_end, sent.len())) };
    let ((), (there, back)) = soon(async { tokio::join!(sending, receiving) }).await;
    assert!(there.iter().eq(&sent) && back.iter().eq(&sent));
    soon(pinger.ping()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_learns_that_it_needs_one() {
    let (tls, listener) = (Tls::new(false), listener().await);
    for _ in 0..20 {
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let connecting = async {
            // The client's handshake is over before the server has seen what is missing.
            http2::connect(tls.connect(tcp).await.unwrap(), ConnectRequest::new(AUTHORITY)).await
        };
        let (outcome, served) = soon(async { tokio::join!(connecting, tls.accept(&listener)) }).await;
        served.unwrap_err();
        let error = outcome.unwrap_err();
        // certificate_required
        assert!(matches!(error, ConnectError::Closed(CloseReason::TlsAlert { alert: 116, .. })), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_ends_the_tunnel() {
    let (tls, listener) = (Tls::new(true), listener().await);
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    // Closing it resets the connection.
    socket2::SockRef::from(&tcp).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    let cut = socket2::SockRef::from(&tcp).try_clone().unwrap();
    let (near, far) = soon(async { tokio::join!(tls.connect(tcp), tls.accept(&listener)) }).await;
    let (client, server) = tunnel_over(near.unwrap(), far.unwrap()).await;
    let Http2Tunnel { sender: _sender, mut receiver, .. } = server;
    cut.shutdown(std::net::Shutdown::Both).unwrap();
    let reason = crate::ends::end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Transport(_)), "{reason}");
    let Http2Tunnel { sender: _sender, mut receiver, .. } = client;
    let reason = crate::ends::end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Transport(_)), "{reason}");
}
