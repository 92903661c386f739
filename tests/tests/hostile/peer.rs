//! A client of the gateway over QUIC that does what it is told to, frame by frame.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    path::Path,
    sync::Arc,
    time::Duration,
};

use m2m_lab::{Node, addresses::GATEWAY_V4};
use m2m_tunnel::{
    capsule::{Capsule, CapsuleReader},
    http3::{
        Code, frame,
        message::Response,
        settings::Settings,
        stream::{RequestEvent, RequestStream, uni},
    },
    qpack::{self, Field},
    quic, request, varint,
};
use quinn::{Connection, ConnectionError, Endpoint, EndpointConfig, RecvStream, SendStream, TransportConfig};
use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::time::timeout;

/// Time for the gateway to say something.
const LIMIT: Duration = Duration::from_secs(10);
/// The gateway, by the name in its certificate.
pub(crate) const AUTHORITY: &str = "198.51.100.10";
/// The gateway.
pub(crate) const GATEWAY: SocketAddr = SocketAddr::new(IpAddr::V4(GATEWAY_V4), 443);

/// Certificate and key of a device, and what it trusts.
#[derive(Debug)]
pub(crate) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
}

impl Credentials {
    /// From PEM files.
    pub(crate) fn read(certificate: &Path, key: &Path, trust_anchor: &Path) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(trust_anchor).unwrap()).unwrap();
        let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
        Self { chain, key: PrivateKeyDer::from_pem_file(key).unwrap(), roots: Arc::new(roots) }
    }

    /// TLS 1.3 for one protocol.
    pub(crate) fn tls(&self, alpn: &[u8]) -> ClientConfig {
        self.tls_with(aws_lc_rs::default_provider(), alpn)
    }

    /// As [`Credentials::tls`], with other cryptography.
    pub(crate) fn tls_with(&self, provider: CryptoProvider, alpn: &[u8]) -> ClientConfig {
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).unwrap();
        let builder = builder.with_root_certificates(Arc::clone(&self.roots));
        let mut tls = builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key()).unwrap();
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) quic: Connection,
    endpoint: Endpoint,
}

impl Peer {
    /// Connects from the address `local` of `node`.
    pub(crate) async fn connect(
        node: &Node,
        local: IpAddr,
        credentials: &Credentials,
        transport: TransportConfig,
    ) -> Result<Self, ConnectionError> {
        let socket = node.within(|| UdpSocket::bind((local, 0))).unwrap().unwrap();
        let runtime = Arc::new(quinn::TokioRuntime);
        let endpoint = Endpoint::new(EndpointConfig::default(), None, socket, runtime).unwrap();
        let tls = QuicClientConfig::try_from(credentials.tls(quic::ALPN)).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport));
        let quic = endpoint.connect_with(config, GATEWAY, AUTHORITY).unwrap().await?;
        Ok(Self { quic, endpoint })
    }

    /// Opens the control stream, as a good client does.
    pub(crate) async fn open_control(&self) -> SendStream {
        let settings = Settings { enable_connect_protocol: false, h3_datagram: true, max_field_section_size: None };
        let mut bytes = Vec::new();
        varint::write(uni::CONTROL, &mut bytes);
        frame::write(frame::kind::SETTINGS, &settings.encode(), &mut bytes);
        let mut stream = self.quic.open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream
    }

    /// The code and the words with which the gateway closes the connection.
    pub(crate) async fn told(&self) -> (Code, String) {
        match timeout(LIMIT, self.quic.closed()).await {
            Ok(ConnectionError::ApplicationClosed(close)) => {
                (Code(close.error_code.into_inner()), String::from_utf8_lossy(&close.reason).into_owned())
            }
            Ok(other) => panic!("not closed by the gateway: {other}"),
            Err(_) => panic!("the gateway does not close the connection"),
        }
    }

    /// Says goodbye.
    pub(crate) async fn close(self) {
        self.quic.close(quinn::VarInt::from_u32(0x100), b"");
        // It has been said, whether it is heard or not.
        let _ = timeout(Duration::from_secs(1), self.endpoint.wait_idle()).await;
    }
}

/// A connection with a tunnel.
#[derive(Debug)]
pub(crate) struct Tunnel {
    pub(crate) peer: Peer,
    /// The tunnel's stream.
    pub(crate) send: SendStream,
    /// The gateway's first word: the device's addresses.
    pub(crate) addresses: Vec<IpAddr>,
    _control: SendStream,
    _receive: RecvStream,
}

impl Tunnel {
    /// Opens one from the address `local` of `node`.
    pub(crate) async fn open(
        node: &Node,
        local: IpAddr,
        credentials: &Credentials,
        transport: TransportConfig,
    ) -> Self {
        let peer = timeout(LIMIT, Peer::connect(node, local, credentials, transport)).await;
        let peer = peer.expect("a connection in time").unwrap_or_else(|error| panic!("no connection: {error}"));
        let control = peer.open_control().await;
        let (mut send, mut receive) = peer.quic.open_bi().await.unwrap();
        send.write_all(&headers(&request::unlimited(AUTHORITY).to_fields())).await.unwrap();
        let addresses = timeout(LIMIT, granted(&mut receive)).await.expect("a tunnel in time");
        Self { peer, send, addresses, _control: control, _receive: receive }
    }

    /// Sends capsules; whether the gateway still takes some.
    pub(crate) async fn say(&mut self, capsules: &[u8]) -> bool {
        let mut content = Vec::new();
        frame::write(frame::kind::DATA, capsules, &mut content);
        self.send.write_all(&content).await.is_ok()
    }
}

/// A HEADERS frame.
pub(crate) fn headers(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(frame::kind::HEADERS, &qpack::encode(fields), &mut bytes);
    bytes
}

/// Reads that the tunnel is granted, and the addresses that come with it.
async fn granted(receive: &mut RecvStream) -> Vec<IpAddr> {
    let (mut stream, mut capsules) = (RequestStream::new(true), CapsuleReader::default());
    loop {
        let chunk = receive.read_chunk(usize::MAX, true).await.unwrap().expect("an answer before the end");
        stream.push(&chunk.bytes);
        while let Some(event) = stream.next_event().unwrap() {
            match event {
                RequestEvent::Headers(section) => {
                    let answer = Response::from_fields(qpack::decode(&section).unwrap()).unwrap();
                    assert!(answer.status.is_success(), "{answer:?}");
                    stream.expect_tunnel();
                }
                RequestEvent::Data(content) => capsules.push(&content),
                RequestEvent::Trailers(_) => panic!("trailers"),
            }
        }
        while let Some(capsule) = capsules.next_capsule().unwrap() {
            if let Capsule::AddressAssign(addresses) = capsule {
                return addresses.iter().map(|address| address.prefix.addr()).collect();
            }
        }
    }
}
