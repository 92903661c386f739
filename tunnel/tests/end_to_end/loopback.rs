//! Two ends of a QUIC connection over loopback.

use std::{
    future::Future,
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use m2m_tunnel::{
    client::{ConnectRequest, connect},
    http3::{frame, settings::Settings, stream::uni},
    quic,
    server::accept,
    session::{Event, Session},
    varint,
};
use quinn::{Connection, Endpoint, SendStream};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// No step of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const AUTHORITY: &str = "gateway.example";

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("too slow")
}

/// A connection's two ends. The endpoints live as long as this.
pub(crate) struct Ends {
    pub(crate) client: Connection,
    pub(crate) server: Connection,
    pub(crate) client_endpoint: Endpoint,
    _server_endpoint: Endpoint,
}

pub(crate) async fn ends() -> Ends {
    ends_over(|server| server).await
}

/// As [`ends`], the client going to the address that `path` gives for the server's.
pub(crate) async fn ends_over(path: impl FnOnce(SocketAddr) -> SocketAddr) -> Ends {
    let (client_endpoint, server_endpoint) = endpoints(|verifier| verifier.with_no_client_auth());
    let address = path(server_endpoint.local_addr().unwrap());
    let connecting = client_endpoint.connect(address, AUTHORITY).unwrap();
    let accepting = async { server_endpoint.accept().await.unwrap().await.unwrap() };
    let (client, server) = soon(async { tokio::join!(connecting, accepting) }).await;
    Ends { client: client.unwrap(), server, client_endpoint, _server_endpoint: server_endpoint }
}

type ServerTls<State> = rustls::ConfigBuilder<rustls::ServerConfig, State>;

/// Endpoints whose client trusts the server and has no certificate.
pub(crate) fn endpoints(
    client_auth: impl FnOnce(ServerTls<rustls::WantsVerifier>) -> ServerTls<rustls::server::WantsServerCert>,
) -> (Endpoint, Endpoint) {
    let certified = rcgen::generate_simple_self_signed(vec![AUTHORITY.to_owned()]).unwrap();
    let certificate = certified.cert.der().clone();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
    let timing = quic::Timing::default();

    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let server_tls = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap();
    let server_tls = client_auth(server_tls).with_single_cert(vec![certificate.clone()], key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certificate).unwrap();
    let client_tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();

    let server_config = quic::server_config(server_tls, quic::server_transport(&timing)).unwrap();
    let client_config = quic::client_config(client_tls, quic::client_transport(&timing)).unwrap();
    let loopback = (Ipv6Addr::LOCALHOST, 0).into();
    let server_endpoint = Endpoint::server(server_config, loopback).unwrap();
    let mut client_endpoint = Endpoint::client(loopback).unwrap();
    client_endpoint.set_default_client_config(client_config);
    (client_endpoint, server_endpoint)
}

/// A tunnel's two ends: client's, server's.
pub(crate) async fn tunnel(ends: &Ends) -> (Session, Session) {
    let serving = async { accept(ends.server.clone()).await.unwrap().accept().await.unwrap() };
    let connecting = connect(ends.client.clone(), ConnectRequest::new(AUTHORITY));
    let (client, server) = soon(async { tokio::join!(connecting, serving) }).await;
    (client.unwrap(), server)
}

pub(crate) async fn event(session: &mut Session) -> Event {
    soon(session.next_event()).await
}

/// A control stream as a peer of one's own opens it.
pub(crate) async fn open_control(connection: &Connection, settings: &Settings) -> SendStream {
    let mut bytes = Vec::new();
    frame::write(frame::kind::SETTINGS, &settings.encode(), &mut bytes);
    open_uni(connection, uni::CONTROL, &bytes).await
}

pub(crate) async fn open_uni(connection: &Connection, kind: u64, bytes: &[u8]) -> SendStream {
    let mut out = Vec::new();
    varint::write(kind, &mut out);
    out.extend_from_slice(bytes);
    let mut stream = soon(connection.open_uni()).await.unwrap();
    soon(stream.write_all(&out)).await.unwrap();
    stream
}

pub(crate) fn settings(of_server: bool) -> Settings {
    Settings { enable_connect_protocol: of_server, h3_datagram: true, max_field_section_size: None }
}

/// A path to `server` that loses every UDP datagram over `limit` bytes without a word, for as long as the runtime lives.
pub(crate) fn narrow_path(server: SocketAddr, limit: usize) -> SocketAddr {
    let bind = || {
        let socket = std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        tokio::net::UdpSocket::from_std(socket).unwrap()
    };
    let (near, far) = (bind(), bind());
    let address = near.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut out, mut back) = ([0; 65535], [0; 65535]);
        let mut client = None;
        loop {
            tokio::select! {
                received = near.recv_from(&mut out) => {
                    let Ok((size, from)) = received else { continue };
                    client = Some(from);
                    if size <= limit {
                        let _ = far.send_to(&out[..size], server).await;
                    }
                }
                received = far.recv_from(&mut back) => {
                    if let (Ok((size, _)), Some(client)) = (received, client) && size <= limit {
                        let _ = near.send_to(&back[..size], client).await;
                    }
                }
            }
        }
    });
    address
}
