//! Marked connections to gateway and manager through the image's firewall.

use std::future::poll_fn;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use m2m_tunnel::http3::Code;
use m2m_tunnel::hub::{ClientConfig, ConnectionHandle, EndpointConfig, Hub, ServerConfig, Service};
use m2m_tunnel::quic::{IDLE_TIMEOUT, client_config, client_transport, server_config, server_transport};
use m2m_tunnel::session::Event;
use m2m_tunnel::udp::UdpSocket;
use nix::unistd::{Uid, setfsuid};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vpnd::network::firewall::Firewall;
use vpnd::network::race::ConnectError;
use vpnd::network::uplink_dns::UplinkDns;
use vpnd::network::{GatewayConnection, NetworkError, Settings};

use crate::far::Far;
use crate::place::{bare, in_namespace, json, network, run};

/// The user `vpnd` of the image.
const VPND: u32 = 800;

const RECORDS: [&str; 2] = [
    "--host-record=gateway.example,198.51.100.10,2001:db8:2::10",
    "--host-record=manager.example,203.0.113.10,2001:db8:3::10",
];

fn settings() -> Settings {
    let resolvers = UplinkDns::Fixed(vec!["192.0.2.1".parse().unwrap(), "2001:db8:1::1".parse().unwrap()]);
    Settings { resolvers, firewall: Firewall::Table, ..bare() }
}

fn load_firewall() {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../image-config/files/usr/lib/m2mvpn/firewall.nft");
    run(&format!("nft -f {}", file.display()));
}

/// The elements of a set of the firewall.
fn set(name: &str) -> Vec<String> {
    let listing: serde_json::Value =
        serde_json::from_str(&run(&format!("nft -j list set inet m2mvpn {name}"))).unwrap();
    let objects = listing["nftables"].as_array().unwrap();
    let set = objects.iter().find_map(|object| object.get("set")).unwrap();
    let elements = set["elem"].as_array().cloned().unwrap_or_default();
    let text = |element: &serde_json::Value| element.as_str().map_or_else(|| element.to_string(), str::to_owned);
    let mut elements: Vec<String> = elements.iter().map(text).collect();
    elements.sort();
    elements
}

/// Whether the far end is reached by an ordinary program of the user that this thread is.
fn plain_connection(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).is_ok()
}

/// An echo server on TCP, both families.
async fn echo(port: u16) {
    let listener = tokio::net::TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            let (mut from, mut to) = stream.split();
            let _ = tokio::io::copy(&mut from, &mut to).await;
        });
    }
}

/// A QUIC server's and client's configuration that fit each other.
fn quic() -> (ServerConfig, ClientConfig) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let certified = rcgen::generate_simple_self_signed(vec!["gateway.example".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())
        .unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(certified.cert.der().clone()).unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (
        server_config(server, server_transport(IDLE_TIMEOUT)).unwrap(),
        client_config(client, client_transport(IDLE_TIMEOUT)).unwrap(),
    )
}

/// A gateway on this port that lets everybody in.
async fn gateway(config: ServerConfig, port: u16) {
    let socket = std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).unwrap();
    let mut hub = Hub::new(
        UdpSocket::new(socket).unwrap(),
        EndpointConfig::default(),
        Some(Service { config, matcher: Arc::default() }),
    );
    loop {
        let now = Instant::now();
        hub.receive(now).unwrap();
        hub.handle_timeout(now);
        while let Some(incoming) = hub.next_incoming() {
            hub.accept(incoming, now);
        }
        while let Some(handle) = hub.next_changed(now) {
            let Some(session) = hub.session(handle) else { continue };
            while let Some(event) = session.poll_event() {
                if matches!(event, Event::Requested(..)) {
                    session.accept();
                }
            }
        }
        hub.transmit(now);
        let due = hub.poll_timeout();
        tokio::select! {
            () = poll_fn(|context| hub.poll_ready(context)) => {}
            () = tokio::time::sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
        }
    }
}

/// Closes a tunnel and lets the gateway know.
fn close(connection: &mut GatewayConnection<(Hub, ConnectionHandle)>) {
    let now = Instant::now();
    let (hub, handle) = &mut connection.tunnel;
    hub.session(*handle).unwrap().close(Code::NO_ERROR, "", now);
    hub.transmit(now);
}

#[test]
fn the_firewall_opens_for_the_manager_and_for_nobody_else() {
    in_namespace(|| async {
        let far = Far::connect().await;
        let _dnsmasq = far.dnsmasq(&RECORDS).await;
        far.spawn(|| echo(443));
        far.spawn(|| echo(8443));
        crate::place::until("the far end listens", || plain_connection("203.0.113.10:443")).await;
        assert!(plain_connection("203.0.113.10:8443"));
        load_firewall();
        setfsuid(Uid::from_raw(VPND));
        assert!(!plain_connection("203.0.113.10:443"));

        let network = network(settings()).await;
        let mut stream = network.connect_manager(&"https://manager.example".parse().unwrap()).await.unwrap();
        // IPv6 first (RFC 8305).
        assert_eq!(stream.peer_addr().unwrap(), "[2001:db8:3::10]:443".parse().unwrap());
        stream.write_all(b"hello").await.unwrap();
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"hello");
        assert_eq!(
            (set("managers4"), set("managers6")),
            (vec!["203.0.113.10".to_owned()], vec!["2001:db8:3::10".to_owned()])
        );
        assert_eq!(set("manager_ports"), ["443"]);
        assert_eq!(
            (set("resolvers4"), set("resolvers6")),
            (vec!["192.0.2.1".to_owned()], vec!["2001:db8:1::1".to_owned()])
        );
        assert_eq!((set("gateways4"), set("gateways6")), (vec![], vec![]));

        // The same address and user without the mark, the mark with another user: both stay inside.
        assert!(!plain_connection("203.0.113.10:443"));
        setfsuid(Uid::from_raw(1000));
        let error = network.connect_manager(&"https://203.0.113.10".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Connect(ConnectError::Unreachable { .. })), "{error}");
        setfsuid(Uid::from_raw(VPND));

        // Another manager by its address takes the former one's place, port and all.
        network.connect_manager(&"https://203.0.113.10:8443".parse().unwrap()).await.unwrap();
        assert_eq!((set("managers4"), set("managers6")), (vec!["203.0.113.10".to_owned()], vec![]));
        assert_eq!(set("manager_ports"), ["8443"]);
        network.stop().await.unwrap();
    });
}

#[test]
fn a_gateway_in_use_stays_open_while_another_is_tried() {
    in_namespace(|| async {
        let far = Far::connect().await;
        let _dnsmasq = far.dnsmasq(&RECORDS).await;
        let (server, client) = quic();
        far.spawn(|| gateway(server, 443));
        load_firewall();
        setfsuid(Uid::from_raw(VPND));
        // Counts the daemon's packets on the way out, by mark.
        run("nft add table inet watch");
        run("nft add chain inet watch out { type filter hook output priority 10 ; }");
        run("nft add rule inet watch out udp dport 443 meta mark != 0x6d32 counter comment unmarked");
        run("nft add rule inet watch out udp dport 443 meta mark 0x6d32 counter comment marked");

        let network = network(settings()).await;
        let origin = "https://gateway.example".parse().unwrap();
        let mut first = network.connect_gateway(&origin, client.clone(), None).await.unwrap();
        assert_eq!(first.remote, "[2001:db8:2::10]:443".parse().unwrap());
        // IPv6 breaks: the next connection falls back to IPv4 at once, over the same dual-stack socket.
        far.run("ip address delete 2001:db8:2::10/128 dev lo");
        far.run("ip -6 route add blackhole 2001:db8:2::10/128");
        let mut second = network.connect_gateway(&origin, client.clone(), None).await.unwrap();
        assert_eq!(second.remote, "198.51.100.10:443".parse().unwrap());
        assert_eq!(
            (set("gateways4"), set("gateways6")),
            (vec!["198.51.100.10".to_owned()], vec!["2001:db8:2::10".to_owned()])
        );

        // The first one is let go: the next change closes the firewall for it.
        close(&mut first);
        drop(first);
        let silent = "https://198.51.100.77".parse().unwrap();
        let attempt = network.connect_gateway(&silent, client.clone(), None);
        tokio::time::timeout(Duration::from_millis(300), attempt).await.expect_err("nobody is there");
        assert_eq!(set("gateways4"), ["198.51.100.10", "198.51.100.77"]);
        let error =
            network.connect_gateway(&"https://wrong.example".parse().unwrap(), client.clone(), None).await.unwrap_err();
        assert!(matches!(error, NetworkError::Resolve(_)), "{error}");
        assert_eq!((set("gateways4"), set("gateways6")), (vec!["198.51.100.10".to_owned()], vec![]));
        let (hub, handle) = &mut second.tunnel;
        assert!(hub.session(*handle).unwrap().is_open());

        let counters = run("nft list chain inet watch out");
        let packets = |comment: &str| -> u64 {
            let line = counters.lines().find(|line| line.contains(&format!("\"{comment}\""))).unwrap();
            let (_, rest) = line.split_once("packets ").unwrap();
            rest.split(' ').next().unwrap().parse().unwrap()
        };
        assert_eq!(packets("unmarked"), 0);
        assert!(packets("marked") > 3, "{counters}");
        close(&mut second);
        network.stop().await.unwrap();
    });
}

#[test]
fn a_wrong_certificate_and_a_silent_gateway_are_told_apart() {
    in_namespace(|| async {
        let far = Far::connect().await;
        let (server, _) = quic();
        let (_, stranger) = quic();
        far.spawn(|| gateway(server, 443));
        let network = network(bare()).await;
        let error =
            network.connect_gateway(&"https://198.51.100.10".parse().unwrap(), stranger, None).await.unwrap_err();
        let NetworkError::Connect(ConnectError::Unreachable { attempts, .. }) = &error else { panic!("{error}") };
        assert!(attempts[0].1.to_string().contains("certificate"), "{error}");
        network.stop().await.unwrap();
    });
}

#[test]
fn without_the_table_the_error_says_so_and_nothing_is_sent() {
    in_namespace(|| async {
        let far = Far::connect().await;
        far.spawn(|| echo(443));
        let network = network(settings()).await;
        let error = network.connect_manager(&"https://203.0.113.10".parse().unwrap()).await.unwrap_err();
        assert!(matches!(error, NetworkError::Firewall(_)), "{error}");
        assert!(error.to_string().contains("m2mvpn-firewall.service"), "{error}");
        assert!(json("ip -j route show table main").len() > 1);
        network.stop().await.unwrap();
    });
}
