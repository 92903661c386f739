//! TLS handshakes over loopback, between configurations as device, gateway and manager use them.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use crate::{
    emulator,
    pki::{self, Chain, Pki, key},
};
use m2m_identity::{
    DeviceKey,
    tls::{
        ClientAuthentication, ClientTls, ClientVerifier, FlooredClock, Identity, ServerTls, TlsError, TrustAnchors,
        client_config, server_config,
    },
};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, NamedGroup, ProtocolVersion, ServerConfig, ServerConnection, Stream,
};
use rustls_pki_types::{CertificateRevocationListDer, UnixTime};

const LIMIT: Duration = Duration::from_secs(20);
const SERVER: &str = "gateway.example";
const ALPN: &[&[u8]] = &[b"h3"];

/// What both sides have seen of a handshake that succeeded.
struct Session {
    version: ProtocolVersion,
    group: NamedGroup,
    alpn: Vec<u8>,
    kind: HandshakeKind,
    client_chain: Option<Chain>,
}

/// One connection; the client has read a byte that the server sent once it had accepted the client.
fn connect(client: &Arc<ClientConfig>, server: &Arc<ServerConfig>) -> Result<Session, String> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let accepting = Arc::clone(server);
    let server = std::thread::spawn(move || {
        let (mut tcp, _) = listener.accept().unwrap();
        tcp.set_read_timeout(Some(LIMIT)).unwrap();
        let mut tls = ServerConnection::new(accepting).unwrap();
        let result = serve(&mut tls, &mut tcp);
        result.map(|()| tls.peer_certificates().map(|chain| chain.iter().map(|der| der.clone().into_owned()).collect()))
    });
    let mut tcp = TcpStream::connect(address).unwrap();
    tcp.set_read_timeout(Some(LIMIT)).unwrap();
    let mut tls = ClientConnection::new(Arc::clone(client), SERVER.try_into().unwrap()).unwrap();
    let received = Stream::new(&mut tls, &mut tcp).read_exact(&mut [0]);
    drop(tcp);
    let served: io::Result<Option<Chain>> = server.join().unwrap();
    match (received, served) {
        (Ok(()), Ok(client_chain)) => Ok(Session {
            version: tls.protocol_version().unwrap(),
            group: tls.negotiated_key_exchange_group().unwrap().name(),
            alpn: tls.alpn_protocol().unwrap().to_vec(),
            kind: tls.handshake_kind().unwrap(),
            client_chain,
        }),
        (received, served) => Err(format!("client: {:?}; server: {:?}", received.err(), served.err())),
    }
}

fn serve(tls: &mut ServerConnection, tcp: &mut TcpStream) -> io::Result<()> {
    while tls.is_handshaking() {
        if let Err(error) = tls.complete_io(tcp) {
            // The alert that says why is still to be sent.
            let _ = tls.write_tls(tcp);
            return Err(error);
        }
    }
    Stream::new(tls, tcp).write_all(b"!")
}

fn now() -> Arc<FlooredClock> {
    Arc::new(FlooredClock::new(UnixTime::since_unix_epoch(Duration::ZERO)))
}

fn client(anchors: &TrustAnchors, identity: Option<&Identity>) -> Arc<ClientConfig> {
    Arc::new(client_config(ClientTls { anchors, identity, alpn: ALPN, clock: now() }).unwrap())
}

fn server(identity: &Identity, clients: ClientAuthentication) -> Arc<ServerConfig> {
    Arc::new(server_config(ServerTls { identity, clients, alpn: ALPN }).unwrap())
}

fn device(pki: &Pki, serial: u8) -> Identity {
    let key = key();
    Identity::new(pki.device(&*key, "dev-0123456789abcdef", serial), key).unwrap()
}

fn gateway(pki: &Pki) -> Identity {
    let key = key();
    Identity::new(pki.server(&*key, SERVER), key).unwrap()
}

fn verifier(pki: &Pki, revocation_lists: &[CertificateRevocationListDer<'_>]) -> Arc<ClientVerifier> {
    Arc::new(ClientVerifier::new(pki.anchors(), revocation_lists).unwrap())
}

fn assert_refused(result: Result<Session, String>, reason: &str) {
    let error = result.err().expect("the handshake should have failed");
    assert!(error.contains(reason), "{error}");
}

#[test]
fn a_tpm_key_authenticates_the_device_in_every_connection_anew() {
    let emulator = emulator::Emulator::start();
    let pki = Pki::new("Example");
    let key: Arc<dyn DeviceKey> = Arc::new(emulator.open().create_signing_key().unwrap());
    let chain = pki.device(&*key, "dev-0123456789abcdef", 7);
    let device = Identity::new(chain.clone(), key).unwrap();
    let client = client(&pki.anchors(), Some(&device));
    let server = server(&gateway(&pki), ClientAuthentication::Required(verifier(&pki, &[pki.revoke(&[])])));
    for _ in 0..2 {
        let session = connect(&client, &server).unwrap();
        assert_eq!(session.version, ProtocolVersion::TLSv1_3);
        assert_eq!(session.group, NamedGroup::X25519MLKEM768);
        assert_eq!(session.alpn, b"h3");
        assert_eq!(session.kind, HandshakeKind::Full);
        assert_eq!(session.client_chain.as_ref(), Some(&chain));
    }
}

#[test]
fn a_device_cannot_pose_as_a_server_nor_a_server_as_a_device() {
    let pki = Pki::new("Example");
    let key = key();
    let mut params = pki::leaf(SERVER, 9, rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    params.subject_alt_names = vec![rcgen::SanType::DnsName(SERVER.try_into().unwrap())];
    let impostor = Identity::new(pki.certify(&params, key.spki_der()), key).unwrap();
    assert_refused(
        connect(&client(&pki.anchors(), None), &server(&impostor, ClientAuthentication::None)),
        "InvalidPurpose",
    );

    let gateway = gateway(&pki);
    let required = ClientAuthentication::Required(verifier(&pki, &[]));
    assert_refused(connect(&client(&pki.anchors(), Some(&gateway)), &server(&gateway, required)), "InvalidPurpose");
}

#[test]
fn a_revocation_takes_effect_on_a_running_server() {
    let pki = Pki::new("Example");
    let (lost, other) = (device(&pki, 20), device(&pki, 21));
    let anchors = pki.anchors();
    let (lost, other) = (client(&anchors, Some(&lost)), client(&anchors, Some(&other)));
    let verifier = verifier(&pki, &[pki.revoke(&[])]);
    let server = server(&gateway(&pki), ClientAuthentication::Required(Arc::clone(&verifier)));
    connect(&lost, &server).unwrap();
    connect(&other, &server).unwrap();

    verifier.replace_revocation_lists(&[pki.revoke(&[20])]).unwrap();
    assert_refused(connect(&lost, &server), "Revoked");
    connect(&other, &server).unwrap();

    let malformed = CertificateRevocationListDer::from(vec![0x30, 0x03, 1, 2, 3]);
    let error = verifier.replace_revocation_lists(&[malformed]).unwrap_err();
    assert!(matches!(error, TlsError::RevocationList(_)));
    assert_refused(connect(&lost, &server), "Revoked");
    connect(&other, &server).unwrap();
}

#[test]
fn a_list_of_another_issuer_or_with_a_forged_signature_lets_nobody_in() {
    let (pki, stranger, namesake) = (Pki::new("Example"), Pki::new("Stranger"), Pki::new("Example"));
    let device = client(&pki.anchors(), Some(&device(&pki, 20)));
    let gateway = gateway(&pki);
    for (list, reason) in [(stranger.revoke(&[]), "UnknownRevocationStatus"), (namesake.revoke(&[]), "BadSignature")] {
        let required = ClientAuthentication::Required(verifier(&pki, &[list]));
        assert_refused(connect(&device, &server(&gateway, required)), reason);
    }
}

#[test]
fn required_and_optional_certificates_are_what_they_say() {
    let pki = Pki::new("Example");
    let gateway = gateway(&pki);
    let (device, lost) = (device(&pki, 20), device(&pki, 21));
    let anchors = pki.anchors();
    let list = pki.revoke(&[21]);
    let stranger = {
        let other = Pki::new("Stranger");
        let key = key();
        Identity::new(other.device(&*key, "dev-0123456789abcdef", 20), key).unwrap()
    };
    let required = server(&gateway, ClientAuthentication::Required(verifier(&pki, std::slice::from_ref(&list))));
    let optional = server(&gateway, ClientAuthentication::Optional(verifier(&pki, &[list])));

    assert_refused(connect(&client(&anchors, None), &required), "NoCertificatesPresented");
    let anonymous = connect(&client(&anchors, None), &optional).unwrap();
    assert_eq!(anonymous.client_chain, None);
    for server in [&required, &optional] {
        let known = connect(&client(&anchors, Some(&device)), server).unwrap();
        assert_eq!(known.client_chain.as_deref(), Some(device.chain()));
        assert_refused(connect(&client(&anchors, Some(&lost)), server), "Revoked");
        assert_refused(connect(&client(&anchors, Some(&stranger)), server), "UnknownIssuer");
    }
}

#[test]
fn a_server_of_another_ca_or_another_name_is_refused() {
    let (pki, other) = (Pki::new("Example"), Pki::new("Other"));
    let client = client(&pki.anchors(), None);
    assert_refused(connect(&client, &server(&gateway(&other), ClientAuthentication::None)), "UnknownIssuer");
    let key = key();
    let elsewhere = Identity::new(pki.server(&*key, "manager.example"), key).unwrap();
    assert_refused(connect(&client, &server(&elsewhere, ClientAuthentication::None)), "NotValidForName");
}

#[test]
fn certificates_are_judged_by_the_clients_own_clock() {
    #[derive(Debug)]
    struct Fixed(u64);
    impl rustls::time_provider::TimeProvider for Fixed {
        fn current_time(&self) -> Option<UnixTime> {
            Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0)))
        }
    }
    let pki = Pki::new("Example");
    let server = server(&gateway(&pki), ClientAuthentication::None);
    let anchors = pki.anchors();
    let connect_at = |seconds| {
        let tls = ClientTls { anchors: &anchors, identity: None, alpn: ALPN, clock: Arc::new(Fixed(seconds)) };
        connect(&Arc::new(client_config(tls).unwrap()), &server)
    };
    assert_refused(connect_at(42), "NotValidYet");
    assert_refused(connect_at(3_000_000_000), "Expired");
    connect_at(1_800_000_000).unwrap();
}

#[test]
fn nothing_older_than_tls_1_3_is_spoken() {
    let pki = Pki::new("Example");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(pki.root()).unwrap();
    let old = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    assert_refused(connect(&Arc::new(old), &server(&gateway(&pki), ClientAuthentication::None)), "ProtocolVersion");
}

#[test]
fn another_application_protocol_is_refused() {
    let pki = Pki::new("Example");
    let anchors = pki.anchors();
    let http =
        client_config(ClientTls { anchors: &anchors, identity: None, alpn: &[b"http/1.1"], clock: now() }).unwrap();
    assert_refused(
        connect(&Arc::new(http), &server(&gateway(&pki), ClientAuthentication::None)),
        "NoApplicationProtocol",
    );
}

#[test]
fn a_chain_for_another_key_is_no_identity() {
    let pki = Pki::new("Example");
    let chain = pki.server(&*key(), SERVER);
    assert!(matches!(Identity::new(chain, key()), Err(TlsError::Identity(_))));
    assert!(matches!(Identity::new(Vec::new(), key()), Err(TlsError::Identity(_))));
    assert!(matches!(TrustAnchors::new(&[]), Err(TlsError::NoTrustAnchor)));
}

#[test]
fn anchors_are_read_from_pem_and_from_der() {
    let pki = Pki::new("Example");
    let pem = m2m_identity::chain::to_pem(&[pki.root()]);
    for bytes in [pem.as_bytes(), &pki.root()] {
        let anchors = TrustAnchors::parse(bytes).unwrap();
        connect(&client(&anchors, None), &server(&gateway(&pki), ClientAuthentication::None)).unwrap();
    }
    assert!(matches!(TrustAnchors::parse(b"no certificate"), Err(TlsError::TrustAnchors(_))));
}
