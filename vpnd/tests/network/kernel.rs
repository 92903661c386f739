//! Addresses, routes and rules.

use ipnet::IpNet;
use m2m_protocol::device_config::Dns;
use m2m_tunnel::routes::IpRange;
use vpnd::network::kernel::KernelError;
use vpnd::network::{Network, NetworkError, Tunnel};

use crate::place::{bare, in_namespace, json, network, run, try_run, tunnel_interface, until};

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn tunnel(addresses: &[&str], advertised: &[&str]) -> Tunnel {
    Tunnel {
        addresses: addresses.iter().map(|text| net(text)).collect(),
        advertised: advertised.iter().map(|text| IpRange::from_prefix(net(text))).collect(),
        mtu: 1280,
        ..Tunnel::default()
    }
}

/// The tunnel's table as `DESTINATION TYPE SOURCE`, sorted.
fn table() -> Vec<String> {
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        // The kernel calls a table that never held a route unknown.
        let command = format!("ip -j {family} route show table 27954");
        if !try_run(&command).1 {
            continue;
        }
        for route in json(&command) {
            let text = |key: &str| route[key].as_str().unwrap_or("-").to_owned();
            let kind = route["type"].as_str().unwrap_or("unicast").to_owned();
            let device = if kind == "unicast" { text("dev") } else { "-".to_owned() };
            routes.push(format!("{} {kind} {device} {}", text("dst"), text("prefsrc")));
        }
    }
    routes.sort();
    routes
}

/// The rules of the tunnel's table, for one family.
fn rules(family: &str) -> Vec<String> {
    let all = run(&format!("ip {family} rule show"));
    all.lines().filter(|line| line.contains("27954")).map(|line| line.replace('\t', " ").trim().to_owned()).collect()
}

const RULE: &str = "27954: not from all fwmark 0x6d32 lookup 27954";

fn addresses() -> Vec<String> {
    let links = json("ip -j address show dev m2m0");
    let infos = links[0]["addr_info"].as_array().unwrap();
    infos.iter().map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"])).collect()
}

/// The device by which packets to `destination` leave, with this mark; the reason where they do not.
fn way(destination: &str, mark: u32) -> String {
    let (text, ok) = try_run(&format!("ip -j route get {destination} mark {mark}"));
    if !ok {
        return text.trim().to_owned();
    }
    let route: serde_json::Value = serde_json::from_str(&text).unwrap();
    format!("{} {}", route[0]["dev"].as_str().unwrap(), route[0]["prefsrc"].as_str().unwrap_or("-"))
}

fn uplink() {
    run("ip link add name uplink type veth peer name isp");
    for link in ["uplink", "isp"] {
        run(&format!("ip link set {link} up"));
    }
    run("ip address add 192.0.2.7/24 dev uplink");
    run("ip address add 2001:db8:1::7/64 dev uplink nodad");
    run("ip route add default via 192.0.2.1");
    run("ip -6 route add default via 2001:db8:1::1");
}

#[test]
fn a_tunnel_comes_changes_and_goes() {
    in_namespace(|| async {
        uplink();
        let index = tunnel_interface();
        let network = network(bare()).await;
        assert_eq!((rules("-4"), rules("-6")), (vec![RULE.to_owned()], vec![RULE.to_owned()]));

        let first = tunnel(&["10.99.0.2/32", "fd99::2/128"], &["10.20.0.0/24", "fd20::/64", "10.30.0.0/16"]);
        let applied = network.apply(index, &first).await.unwrap();
        assert_eq!(applied.addresses, [net("10.99.0.2/32"), net("fd99::2/128")]);
        assert_eq!(applied.routes, [net("10.20.0.0/24"), net("10.30.0.0/16"), net("fd20::/64")]);
        assert_eq!(addresses(), ["10.99.0.2/32", "fd99::2/128"]);
        let link = &json("ip -j link show dev m2m0")[0];
        assert_eq!(link["mtu"], 1280);
        assert!(link["flags"].as_array().unwrap().contains(&"UP".into()));
        let expected = [
            "10.20.0.0/24 unicast m2m0 10.99.0.2",
            "10.30.0.0/16 unicast m2m0 10.99.0.2",
            "fd20::/64 unicast m2m0 fd99::2",
        ];
        assert_eq!(table(), expected);
        assert_eq!(way("10.20.0.80", 0), "m2m0 10.99.0.2");
        assert_eq!(way("fd20::80", 0), "m2m0 fd99::2");
        // The tunnel never runs through itself, and nothing else changes its way.
        assert_eq!(way("10.20.0.80", 0x6d32), "uplink 192.0.2.7");
        assert_eq!(way("198.51.100.1", 0), "uplink 192.0.2.7");
        assert_eq!(way("2001:db8:9::1", 0), "uplink 2001:db8:1::7");

        // The same again, then another address, one route less, a resolver, an exception.
        network.apply(index, &first).await.unwrap();
        assert_eq!(table(), expected);
        let mut second = tunnel(&["10.99.0.3/32", "fd99::2/128"], &["10.20.0.0/24", "fd20::/64", "0.0.0.0/0"]);
        second.excluded = vec![net("192.0.2.0/24")];
        second.dns = Dns { servers: vec!["fd20:1::53".parse().unwrap()], search: vec![] };
        let applied = network.apply(index, &second).await.unwrap();
        assert_eq!(applied.dns_problem, None);
        assert_eq!(addresses(), ["10.99.0.3/32", "fd99::2/128"]);
        let expected = [
            "192.0.2.0/24 throw - -",
            "default unicast m2m0 10.99.0.3",
            "fd20:1::53 unicast m2m0 fd99::2",
            "fd20::/64 unicast m2m0 fd99::2",
        ];
        assert_eq!(table(), expected);
        assert_eq!(way("198.51.100.1", 0), "m2m0 10.99.0.3");
        assert_eq!(way("192.0.2.1", 0), "uplink 192.0.2.7");

        // Without an IPv6 address, the company's IPv6 destinations are not left to the uplink.
        network.apply(index, &tunnel(&["10.99.0.3/32", "::/128"], &["10.20.0.0/24", "::/0"])).await.unwrap();
        assert_eq!(table(), ["10.20.0.0/24 unicast m2m0 10.99.0.3", "default unreachable - -"]);
        assert_eq!(addresses(), ["10.99.0.3/32"]);
        assert!(way("2001:db8:9::1", 0).contains("No route to host"), "{}", way("2001:db8:9::1", 0));
        assert_eq!(way("2001:db8:9::1", 0x6d32), "uplink 2001:db8:1::7");

        network.clear().await.unwrap();
        assert_eq!((table(), addresses()), (vec![], vec![]));
        assert_eq!(rules("-4"), [RULE]);
        network.stop().await.unwrap();
        assert_eq!((rules("-4"), rules("-6")), (vec![], vec![]));
        assert_eq!(way("198.51.100.1", 0), "uplink 192.0.2.7");
    });
}

#[test]
fn what_a_crash_left_behind_is_reused_or_removed() {
    in_namespace(|| async {
        uplink();
        let index = tunnel_interface();
        let network = network(bare()).await;
        let mut wanted = tunnel(&["10.99.0.2/32"], &["0.0.0.0/0", "::/0"]);
        wanted.excluded = vec![net("192.0.2.0/24")];
        network.apply(index, &wanted).await.unwrap();
        // As if by kill -9: the interface goes with the process, routes without interface and the rules stay.
        drop(network);
        run("ip link delete m2m0");
        assert_eq!(table(), ["192.0.2.0/24 throw - -", "default unreachable - -"]);
        // A former version may have had another rule.
        run("ip rule add fwmark 0x1 lookup 27954 priority 100");
        run("ip -6 rule add not fwmark 0x6d32 lookup 27954 priority 27953");

        let network = Network::start(bare()).await.unwrap();
        assert_eq!(table(), Vec::<String>::new());
        assert_eq!((rules("-4"), rules("-6")), (vec![RULE.to_owned()], vec![RULE.to_owned()]));
        let index = tunnel_interface();
        network.apply(index, &wanted).await.unwrap();
        let expected = ["192.0.2.0/24 throw - -", "default unicast m2m0 10.99.0.2", "default unreachable - -"];
        assert_eq!(table(), expected);
        // The interface may be gone before the network is cleared.
        run("ip link delete m2m0");
        network.stop().await.unwrap();
        assert_eq!((table(), rules("-4"), rules("-6")), (vec![], vec![], vec![]));
    });
}

#[test]
fn rules_that_somebody_removes_are_put_back_until_the_end() {
    in_namespace(|| async {
        uplink();
        let index = tunnel_interface();
        let network = network(bare()).await;
        network.apply(index, &tunnel(&["10.99.0.2/32", "fd99::2/128"], &["10.20.0.0/24", "fd20::/64"])).await.unwrap();
        for _ in 0..3 {
            run("ip rule delete priority 27954");
            run("ip -6 rule delete priority 27954");
            until("the rules are back", || {
                (rules("-4"), rules("-6")) == (vec![RULE.to_owned()], vec![RULE.to_owned()])
            })
            .await;
        }
        assert_eq!(way("10.20.0.80", 0), "m2m0 10.99.0.2");
        network.stop().await.unwrap();
        // Longer than a guard would take to put them back.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        assert_eq!((rules("-4"), rules("-6")), (vec![], vec![]));
    });
}

#[test]
fn other_rules_and_tables_are_left_alone() {
    in_namespace(|| async {
        uplink();
        run("ip rule add from 192.0.2.7 lookup 100 priority 50");
        run("ip route add 203.0.113.0/24 via 192.0.2.1 table 100");
        let before =
            (run("ip rule show"), run("ip route show table 100"), run("ip route show"), run("ip -6 route show"));
        let index = tunnel_interface();
        let network = network(bare()).await;
        network.apply(index, &tunnel(&["10.99.0.2/32", "fd99::2/128"], &["0.0.0.0/0", "::/0"])).await.unwrap();
        assert_eq!(run("ip route show"), before.2);
        network.stop().await.unwrap();
        run("ip link delete m2m0");
        let after =
            (run("ip rule show"), run("ip route show table 100"), run("ip route show"), run("ip -6 route show"));
        assert_eq!(after, before);
    });
}

#[test]
fn a_thousand_routes_are_replaced() {
    in_namespace(|| async {
        let index = tunnel_interface();
        let network = network(bare()).await;
        let many = |offset: u32| Tunnel {
            advertised: (0..1000u32)
                .map(|n| {
                    IpRange::from_prefix(IpNet::from(std::net::IpAddr::from(
                        (0x0a00_0000 + offset + 2 * n).to_be_bytes(),
                    )))
                })
                .collect(),
            ..tunnel(&["10.99.0.2/32"], &[])
        };
        network.apply(index, &many(0)).await.unwrap();
        assert_eq!(table().len(), 1000);
        let applied = network.apply(index, &many(1000)).await.unwrap();
        assert_eq!(applied.routes.len(), 1000);
        assert_eq!(table().len(), 1000);
        network.stop().await.unwrap();
    });
}

#[test]
fn the_errors_say_what_to_do() {
    in_namespace(|| async {
        let network = network(bare()).await;
        let error = network.apply(4711, &tunnel(&["10.99.0.2/32"], &[])).await.unwrap_err();
        let NetworkError::Kernel(KernelError { action, reason }) = &error else { panic!("{error}") };
        assert_eq!(
            (action.as_str(), reason.as_str()),
            ("set interface 4711 up with an MTU of 1280", "the interface is gone")
        );
    });
}
