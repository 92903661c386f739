//! The real program in a network namespace of its own, against devices made of the tunnel and identity crates.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

mod authority;
mod device;
mod host;
mod site;

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use m2m_tunnel::session::CloseReason;
use nix::sys::signal::Signal;

use authority::Authority;
use device::{Device, echo_request};
use host::{Gateway, Host, LIMIT, get, wait_for_metric, wait_until};

const POOL: &str = "[pool]\nipv4 = \"10.99.0.0/16\"\nipv6 = \"fd99::/64\"\n";

/// Certificates and `gateway.toml` in a directory, and a namespace.
fn prepare(tables: &str) -> (tempfile::TempDir, Authority, Host) {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    authority.write(directory.path());
    write_config(directory.path(), tables);
    (directory, authority, Host::new())
}

fn write_config(directory: &Path, tables: &str) {
    let at = directory.display();
    let text = format!(
        "listen = [\"127.0.0.1:443\"]
state_dir = \"{at}/state\"
client_ca = \"{at}/client-ca.pem\"
routes = [\"10.20.0.0/24\", \"fd20::/64\"]
[identity]
certificate = \"{at}/gateway.pem\"
key = \"{at}/gateway.key\"
{tables}"
    );
    std::fs::write(directory.join("gateway.toml"), text).unwrap();
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_reaches_the_company_in_both_families() {
    let (directory, authority, host) = prepare(POOL);
    let gateway = Gateway::start(&host, directory.path());
    let device = Device::connect(&host, &authority.anchors(), &authority.device("dev-1", 11)).await.unwrap();
    assert_eq!(device.addresses, [net("10.99.0.2/32"), net("fd99::2/128")]);
    for route in ["10.20.0.0/24", "fd20::/64", "10.99.0.1/32", "fd99::1/128"] {
        assert!(device.routes.contains(&net(route)), "{route} in {:?}", device.routes);
    }
    for destination in ["10.99.0.1", "fd99::1", "10.20.0.80", "fd20::80"] {
        device.ping(destination).await;
    }

    let sessions: serde_json::Value = serde_json::from_str(&get(&host, "/sessions").unwrap()).unwrap();
    let session = &sessions["sessions"][0];
    assert_eq!(session["device"], "dev-1");
    assert_eq!(session["addresses"]["ipv6"], "fd99::2");
    assert!(session["counters"]["received_packets"].as_u64().unwrap() >= 4, "{session}");
    assert!(session["counters"]["sent_bytes"].as_u64().unwrap() >= 2 * 36 + 2 * 56, "{session}");
    wait_for_metric(&host, "m2m_gateway_sessions 1");
    wait_for_metric(&host, "m2m_gateway_connections_total{outcome=\"accepted\"} 1");
    drop(device);
    wait_for_metric(&host, "m2m_gateway_sessions 0");
    assert!(gateway.stop().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_not_connected_is_reported_unreachable() {
    let (directory, _, host) = prepare(POOL);
    let _gateway = Gateway::start(&host, directory.path());
    for address in ["10.99.0.77:80", "[fd99::77]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        let begun = Instant::now();
        let error = host.within(move || TcpStream::connect_timeout(&address, LIMIT / 2)).unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable),
            "{address}: {error} after {:?}",
            begun.elapsed()
        );
    }
    assert!(get(&host, "/metrics").unwrap().contains("m2m_gateway_undeliverable_packets_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_that_the_path_does_not_carry_is_answered_with_its_size() {
    let (directory, authority, host) = prepare(&format!("{POOL}[tun]\nmtu = 9000\n"));
    let _gateway = Gateway::start(&host, directory.path());
    let device = Device::connect(&host, &authority.anchors(), &authority.device("dev-1", 11)).await.unwrap();
    let socket = host.within(|| {
        let socket = std::net::UdpSocket::bind("10.99.0.1:0").unwrap();
        socket.connect("10.99.0.2:9").unwrap();
        socket
    });
    // The first is too large; once the kernel knows the size, it sends fragments that fit.
    let is_fragment = |packet: &[u8]| packet[0] >> 4 == 4 && packet[6] & 0x20 != 0;
    let mut fragment = None;
    let end = Instant::now() + LIMIT;
    while fragment.is_none() {
        assert!(Instant::now() < end, "no fragment came");
        // An error is the ICMP message of the packet before.
        let _ = socket.send(&[7; 4000]);
        fragment = device.receive(std::time::Duration::from_millis(200), is_fragment).await;
    }
    let metrics = get(&host, "/metrics").unwrap();
    assert!(metrics.contains("m2m_gateway_device_dropped_packets_total{device=\"dev-1\",reason=\"too_large\"} 1\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_stay_and_packets_go_where_the_device_last_was() {
    let (directory, authority, host) = prepare(POOL);
    let anchors = authority.anchors();
    let (one, two) = (authority.device("dev-1", 11), authority.device("dev-2", 12));
    let gateway = Gateway::start(&host, directory.path());
    let first = Device::connect(&host, &anchors, &one).await.unwrap();
    let other = Device::connect(&host, &anchors, &two).await.unwrap();
    assert_eq!(other.addresses, [net("10.99.0.3/32"), net("fd99::3/128")]);

    let second = Device::connect(&host, &anchors, &one).await.unwrap();
    assert_eq!(second.addresses, first.addresses);
    // The first one carries on until the device sends over the second, and is not closed then.
    first.ping("10.99.0.1").await;
    second.ping("10.99.0.1").await;
    first.send(&echo_request("10.99.0.2".parse().unwrap(), "10.20.0.80".parse().unwrap()));
    second.ping("fd20::80").await;
    assert!(first.receive(Duration::from_millis(200), |_| true).await.is_none(), "the device has moved");
    wait_for_metric(&host, "m2m_gateway_sessions 2");
    drop(first);
    second.ping("fd20::80").await;

    let addresses = (second.addresses.clone(), other.addresses.clone());
    let mut other = other;
    assert!(gateway.stop().success());
    let reason = other.end().await;
    assert!(matches!(&reason, CloseReason::Peer { code, .. } if code.0 == 0x100), "{reason:?}");
    let _gateway = Gateway::start(&host, directory.path());
    let two_again = Device::connect(&host, &anchors, &two).await.unwrap();
    let one_again = Device::connect(&host, &anchors, &one).await.unwrap();
    assert_eq!((one_again.addresses, two_again.addresses), addresses);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_sends_from_its_own_address_to_the_routes_only() {
    let (directory, authority, host) = prepare(POOL);
    let _gateway = Gateway::start(&host, directory.path());
    let anchors = authority.anchors();
    let device = Device::connect(&host, &anchors, &authority.device("dev-1", 11)).await.unwrap();
    let neighbour = Device::connect(&host, &anchors, &authority.device("dev-2", 12)).await.unwrap();
    let send = |source: &str, destination: &str| {
        device.send(&echo_request(source.parse().unwrap(), destination.parse().unwrap()));
    };
    send("10.99.0.3", "10.20.0.80");
    send("fd99::3", "fd20::80");
    wait_for_metric(&host, "m2m_gateway_device_dropped_packets_total{device=\"dev-1\",reason=\"spoofed\"} 2");
    send("10.99.0.2", "10.99.0.3");
    wait_for_metric(&host, "m2m_gateway_device_dropped_packets_total{device=\"dev-1\",reason=\"other_device\"} 1");
    send("10.99.0.2", "192.0.2.1");
    wait_for_metric(&host, "m2m_gateway_device_dropped_packets_total{device=\"dev-1\",reason=\"not_routed\"} 1");
    let prohibited =
        |packet: &[u8]| packet[0] >> 4 == 4 && packet[20..22] == [3, 13] && packet[44..48] == [192, 0, 2, 1];
    assert!(device.receive(LIMIT, prohibited).await.is_some());
    device.send(b"not IP");
    wait_for_metric(&host, "m2m_gateway_device_dropped_packets_total{device=\"dev-1\",reason=\"malformed\"} 1");

    // The neighbour got none of it, and both still work.
    device.ping("10.20.0.80").await;
    neighbour.ping("10.20.0.80").await;
    let sent = |text: &str| text.contains("device_packets_total{device=\"dev-1\",direction=\"from_device\"} 1\n");
    wait_until("one packet of the device was forwarded", || get(&host, "/metrics").is_some_and(|text| sent(&text)));
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_stay_outside() {
    let (directory, authority, host) = prepare(POOL);
    let _gateway = Gateway::start(&host, directory.path());
    let anchors = authority.anchors();
    let refusal = async |identity| Device::connect(&host, &anchors, &identity).await.err().expect("a refusal");

    // A CA of the same name, and a server's certificate of the right one.
    for stranger in [Authority::new().device("dev-1", 11), authority.server()] {
        let words = refusal(stranger).await;
        assert!(words.contains("TLS handshake"), "{words}");
    }
    wait_for_metric(&host, "m2m_gateway_connections_total{outcome=\"handshake_failed\"} 2");
    let contradiction = refusal(authority.device_with_uri("dev-1", "urn:m2mvpn:device:dev-2", 11)).await;
    assert!(contradiction.contains("403"), "{contradiction}");
    wait_for_metric(&host, "m2m_gateway_connections_total{outcome=\"not_a_device\"} 1");
    wait_for_metric(&host, "m2m_gateway_sessions 0");
    // And the device does not believe a gateway of another CA.
    let device = authority.device("dev-1", 11);
    assert!(Device::connect(&host, &Authority::new().anchors(), &device).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_says_so() {
    let (directory, authority, host) = prepare("[pool]\nipv4 = \"10.99.0.0/30\"\nipv6 = \"fd99::/64\"\n");
    let _gateway = Gateway::start(&host, directory.path());
    let anchors = authority.anchors();
    let first = Device::connect(&host, &anchors, &authority.device("dev-1", 11)).await.unwrap();
    let refused = Device::connect(&host, &anchors, &authority.device("dev-2", 12)).await.err().unwrap();
    assert!(refused.contains("503") && refused.contains("no address"), "{refused}");
    first.ping("10.99.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_takes_effect_at_once() {
    let (directory, authority, host) = prepare("");
    let at = directory.path();
    let list = at.join("crl.der");
    write_config(at, &format!("{POOL}[crl]\nfile = \"{}\"\nrefresh_s = 3600\n", list.display()));
    let anchors = authority.anchors();
    let (lost, kept) = (authority.device("dev-1", 11), authority.device("dev-2", 12));
    let gateway = Gateway::start(&host, at);

    // No list yet: nobody.
    assert!(Device::connect(&host, &anchors, &lost).await.is_err());
    wait_for_metric(&host, "m2m_gateway_connections_total{outcome=\"refused_no_revocation_list\"} 1");
    std::fs::write(&list, authority.revocation_list(1, &[])).unwrap();
    gateway.signal(Signal::SIGHUP);
    wait_for_metric(&host, "m2m_gateway_revocation_list_refreshes_total{outcome=\"good\"} 1");
    let mut lost_device = Device::connect(&host, &anchors, &lost).await.unwrap();
    let kept_device = Device::connect(&host, &anchors, &kept).await.unwrap();
    lost_device.ping("10.20.0.80").await;

    std::fs::write(&list, authority.revocation_list(2, &[11])).unwrap();
    gateway.signal(Signal::SIGHUP);
    let CloseReason::Peer { code, reason } = lost_device.end().await else { panic!("closed by the gateway") };
    assert_eq!((code.0, reason.as_str()), (0x6d3201, "the device's certificate has been revoked"));
    assert!(Device::connect(&host, &anchors, &lost).await.is_err());
    kept_device.ping("10.20.0.80").await;
    wait_for_metric(&host, "m2m_gateway_revocation_list_certificates 1");
    wait_for_metric(&host, "m2m_gateway_sessions 1");

    // Neither an older list nor one that somebody else signed brings the device back, nor does a restart without the source.
    for (bad, failures) in [(authority.revocation_list(1, &[]), 2), (Authority::new().revocation_list(9, &[]), 3)] {
        std::fs::write(&list, bad).unwrap();
        gateway.signal(Signal::SIGHUP);
        wait_for_metric(
            &host,
            &format!("m2m_gateway_revocation_list_refreshes_total{{outcome=\"failed\"}} {failures}"),
        );
        assert!(Device::connect(&host, &anchors, &lost).await.is_err());
    }
    std::fs::remove_file(&list).unwrap();
    assert!(gateway.stop().success());
    let _gateway = Gateway::start(&host, at);
    assert!(Device::connect(&host, &anchors, &lost).await.is_err());
    Device::connect(&host, &anchors, &kept).await.unwrap().ping("10.20.0.80").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revocation_list_comes_over_http() {
    let (directory, authority, host) = prepare(&format!("{POOL}[crl]\nurl = \"http://127.0.0.1:8080/crl.der\"\n"));
    let list = authority.revocation_list(1, &[11]);
    host.within(move || {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:8080").unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut request = [0; 1024];
                let read = stream.read(&mut request).unwrap();
                assert!(request[..read].starts_with(b"GET /crl.der HTTP/1.1\r\n"));
                write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", list.len()).unwrap();
                stream.write_all(&list).unwrap();
            }
        });
    });
    let _gateway = Gateway::start(&host, directory.path());
    let anchors = authority.anchors();
    assert!(Device::connect(&host, &anchors, &authority.device("dev-1", 11)).await.is_err());
    Device::connect(&host, &anchors, &authority.device("dev-2", 12)).await.unwrap().ping("10.99.0.1").await;
}

#[test]
fn a_wrong_configuration_names_file_line_and_field() {
    let (directory, ..) = prepare(POOL);
    let file = directory.path().join("gateway.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let check = || {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_m2m-gateway"))
            .args(["--check", "--config"])
            .arg(&file)
            .output()
            .unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    assert!(check().0, "{}", check().1);

    let table = [
        ("127.0.0.1:443\"]", "127.0.0.1\"]", ":1: listen[0]: ", "socket address"),
        ("listen = [\"127.0.0.1:443\"]", "listen = []", ":1: listen: ", "at least one"),
        ("10.20.0.0/24", "10.20.0.1/24", ":4: routes[0]: ", "\"10.20.0.0/24\""),
        ("10.20.0.0/24", "10.99.1.0/24", ": routes: 10.99.1.0/24 lies in pool.ipv4", "do not reach each other"),
        ("[identity]", "[identity]\ncolour = 1", ":6: identity.colour: ", "unknown field"),
        ("ipv4 = \"10.99.0.0/16\"", "ipv4 = \"10.99.0.0/31\"", ":9: pool.ipv4: ", "8 to 30 bits"),
        ("ipv4 = \"10.99.0.0/16\"\nipv6 = \"fd99::/64\"", "", ":8: pool: ", "expected `ipv4`"),
        ("[pool]", "[pool]\ngateway = 2", ":8: pool: gateway: ", "1 to `reserved`, which is 1"),
        ("[pool]", "[routing]\ninject = \"all\"\n[pool]", ":9: routing.inject: ", "`pool` or `host-routes`"),
        ("[pool]", "[pool]\nbook = \"/nonexistent/book\"", "/nonexistent/book: not there", "mounted"),
        ("[pool]", "[tun]\nmtu = 1000\n[pool]", ":9: tun.mtu: ", "1280 to 9000"),
        ("[pool]", "[tun]\nname = \"a b\"\n[pool]", ":9: tun.name: ", "interface name"),
        ("[pool]", "[metrics]\nlisten = \"0.0.0.0:9184\"\n[pool]", ":9: metrics.listen: ", "loopback"),
        ("[pool]", "[limits]\nmax_sessions = 0\n[pool]", ":9: limits.max_sessions: ", "from 1"),
        ("client-ca.pem", "nothing.pem", "nothing.pem: ", "No such file"),
        ("gateway.key\"", "gateway.pem\"", "gateway.pem: ", "PRIVATE KEY"),
        ("[pool]", "[pool", ":8: ", "expected"),
    ];
    for (from, to, place, expected) in table {
        let wrong = good.replacen(from, to, 1);
        assert_ne!(wrong, good, "{from}");
        std::fs::write(&file, wrong).unwrap();
        let (success, words) = check();
        assert!(!success && words.contains(place) && words.contains(expected), "{to:?}: {words}");
    }
    std::fs::remove_file(&file).unwrap();
    assert!(check().1.contains("gateway.toml: cannot be read"));
}
