//! Several gateways in one site: one address book, and a route for each device at the gateway that it is connected to.

use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

/// The gateway's routes in its namespace, both families.
fn routes(host: &Host) -> String {
    host.within(|| {
        let family = |family: &str| {
            let output = Command::new("ip").args([family, "route", "show", "proto", "109"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        family("-4") + &family("-6")
    })
}

fn has_routes(host: &Host, number: u8) -> bool {
    let routes = routes(host);
    let line = |start: &str| routes.lines().any(|line| line.starts_with(start) && line.contains("dev m2mgw0"));
    line(&format!("10.99.0.{number} ")) && line(&format!("fd99::{number} "))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_its_own_route_while_it_is_connected() {
    let (directory, authority, host) = prepare(&format!("{POOL}[routing]\ninject = \"host-routes\"\n"));
    let gateway = Gateway::start(&host, directory.path());
    let anchors = authority.anchors();
    let one = Device::connect(&host, &anchors, &authority.device("dev-1", 11)).await.unwrap();
    let other = Device::connect(&host, &anchors, &authority.device("dev-2", 12)).await.unwrap();
    wait_until("both have routes", || has_routes(&host, 2) && has_routes(&host, 3));
    for destination in ["10.99.0.1", "fd99::1", "10.20.0.80", "fd20::80"] {
        one.ping(destination).await;
        other.ping(destination).await;
    }

    // Whoever is not connected is unreachable, and at once.
    for address in ["10.99.0.77:80", "[fd99::77]:80"] {
        let address: SocketAddr = address.parse().unwrap();
        let begun = Instant::now();
        let error = host.within(move || TcpStream::connect_timeout(&address, LIMIT / 2)).unwrap_err();
        let unreachable = matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable);
        assert!(unreachable && begun.elapsed() < Duration::from_secs(5), "{address}: {error}");
    }

    // A newer session of the same device keeps its routes when the older one ends.
    let newer = Device::connect(&host, &anchors, &authority.device("dev-1", 11)).await.unwrap();
    drop(one);
    newer.ping("10.20.0.80").await;
    assert!(has_routes(&host, 2), "{}", routes(&host));
    drop(other);
    wait_until("the other one's routes are gone", || !has_routes(&host, 3));
    assert!(has_routes(&host, 2), "{}", routes(&host));

    assert!(gateway.stop().success());
    wait_until("only the unreachable ones are left", || {
        let left = routes(&host);
        left.lines().count() == 2 && left.lines().all(|line| line.starts_with("unreachable"))
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_has_one_address_at_all_gateways() {
    let shared = tempfile::tempdir().unwrap();
    let book = shared.path().join("addresses.json");
    std::fs::write(&book, r#"{"version":1,"devices":{}}"#).unwrap();
    let authority = Authority::new();
    let gateways = [1, 2].map(|number| {
        let directory = tempfile::tempdir().unwrap();
        authority.write(directory.path());
        let pool = format!(
            "{POOL}book = \"{}\"\ngateway = {number}\nreserved = 4\n[routing]\ninject = \"host-routes\"\n",
            book.display()
        );
        write_config(directory.path(), &pool);
        let host = Host::new();
        let gateway = Gateway::start(&host, directory.path());
        (host, gateway, directory)
    });
    let anchors = authority.anchors();
    let devices = [authority.device("dev-1", 11), authority.device("dev-2", 12)];
    let connect = async |gateway: usize, device: usize| {
        Device::connect(&gateways[gateway].0, &anchors, &devices[device]).await.unwrap()
    };
    // Each device at another gateway first.
    let (first, second) = (connect(0, 0).await, connect(1, 1).await);
    assert_eq!(first.addresses, [net("10.99.0.5/32"), net("fd99::5/128")]);
    assert_eq!(second.addresses, [net("10.99.0.6/32"), net("fd99::6/128")]);
    assert!(first.routes.contains(&net("10.99.0.1/32")) && second.routes.contains(&net("10.99.0.2/32")));
    let (moved, other) = (connect(1, 0).await, connect(0, 1).await);
    assert_eq!((&moved.addresses, &other.addresses), (&first.addresses, &second.addresses));
    for (host, ..) in &gateways {
        wait_until("both are routed at both", || has_routes(host, 5) && has_routes(host, 6));
    }
    drop(first);
    wait_until("the device is at the second one only", || !has_routes(&gateways[0].0, 5));
    assert!(has_routes(&gateways[1].0, 5));
}
