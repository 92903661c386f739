//! The watch of the machine's ways to the internet.

use std::time::Duration;

use ipnet::IpNet;
use m2m_tunnel::routes::IpRange;
use tokio::sync::watch::Receiver;
use vpnd::network::Tunnel;
use vpnd::network::uplinks::Uplinks;

use crate::far::Far;
use crate::place::{bare, in_namespace, network, run, tunnel_interface};

async fn next(uplinks: &mut Receiver<Uplinks>) -> Uplinks {
    tokio::time::timeout(Duration::from_secs(10), uplinks.changed()).await.expect("a change").unwrap();
    uplinks.borrow_and_update().clone()
}

#[test]
fn links_and_routes_that_come_and_go_are_told_and_the_tunnel_is_not() {
    in_namespace(|| async {
        let network = network(bare()).await;
        let mut uplinks = network.uplinks();
        assert_eq!(*uplinks.borrow_and_update(), Uplinks::default());

        let far = Far::connect().await;
        let both = uplinks.wait_for(|uplinks| uplinks.ipv4 && uplinks.ipv6);
        let generation = tokio::time::timeout(Duration::from_secs(10), both).await.unwrap().unwrap().generation;
        uplinks.borrow_and_update();

        // Another router: still a way, but a new one.
        run("ip route replace default via 192.0.2.2");
        let now = next(&mut uplinks).await;
        assert!(now.ipv4 && now.ipv6 && now.generation > generation, "{now:?}");
        run("ip -6 route delete default");
        let now = next(&mut uplinks).await;
        assert!(now.ipv4 && !now.ipv6, "{now:?}");
        // The cable is pulled at the other end: the route stays, but it leads nowhere.
        far.run("ip link set device down");
        assert!(!next(&mut uplinks).await.any());
        far.run("ip link set device up");
        assert!(next(&mut uplinks).await.ipv4);

        // The tunnel's own interface, default routes and all, is no uplink. A later change comes with the very next generation.
        let generation = uplinks.borrow_and_update().generation;
        let index = tunnel_interface();
        let prefix = |text: &str| text.parse::<IpNet>().unwrap();
        let tunnel = Tunnel {
            addresses: vec![prefix("10.99.0.2/32"), prefix("fd99::2/128")],
            advertised: vec![IpRange::from_prefix(prefix("0.0.0.0/0")), IpRange::from_prefix(prefix("::/0"))],
            mtu: 1280,
            ..Tunnel::default()
        };
        network.apply(index, &tunnel).await.unwrap();
        tokio::time::timeout(Duration::from_millis(500), uplinks.changed()).await.expect_err("no change");
        run("ip address add 192.0.2.8/24 dev uplink");
        assert_eq!(next(&mut uplinks).await.generation, generation + 1);
        network.stop().await.unwrap();
    });
}

#[test]
fn each_uplink_is_listed_with_what_it_has() {
    in_namespace(|| async {
        let _far = Far::connect().await;
        // A second one with a worse metric, and one that leads to a private network only.
        for (name, address) in [("modem", "198.51.100.7/24"), ("plant", "10.1.0.7/24")] {
            run(&format!("ip link add name {name} type veth peer name {name}-end"));
            run(&format!("ip link set {name}-end up"));
            run(&format!("ip link set {name} up"));
            run(&format!("ip address add {address} dev {name}"));
        }
        run("ip route add default via 198.51.100.1 metric 700");
        run("ip route add 10.2.0.0/16 via 10.1.0.1");
        let network = network(bare()).await;
        let uplinks = network.uplinks().borrow().clone();
        let told: Vec<_> = uplinks
            .interfaces
            .iter()
            .map(|interface| {
                let addresses: Vec<String> = interface.addresses.iter().map(ToString::to_string).collect();
                let routers: Vec<String> = interface.routers.iter().map(ToString::to_string).collect();
                (interface.name.as_str(), interface.ipv6, interface.metric, addresses.join(" "), routers.join(" "))
            })
            .collect();
        let text = str::to_owned;
        let expected = [
            ("uplink", true, Some(0), text("192.0.2.7/24 2001:db8:1::7/64"), text("192.0.2.1 2001:db8:1::1")),
            ("modem", false, Some(700), text("198.51.100.7/24"), text("198.51.100.1")),
            ("plant", false, None, text("10.1.0.7/24"), text("10.1.0.1")),
        ];
        assert_eq!(told, expected);
        network.stop().await.unwrap();
    });
}

#[test]
fn an_interface_without_router_is_a_network_all_the_same() {
    in_namespace(|| async {
        run("ip link add name plant type veth peer name plant-end");
        run("ip link set plant-end up");
        run("ip link set plant up");
        let network = network(bare()).await;
        let mut uplinks = network.uplinks();
        run("ip address add 10.1.0.7/24 dev plant");
        let now = next(&mut uplinks).await;
        assert!(now.is_on_network && !now.any(), "{now:?}");
        run("ip link set plant down");
        assert!(!next(&mut uplinks).await.is_on_network);
        network.stop().await.unwrap();
    });
}

#[test]
fn a_lost_uplink_is_told_within_50_milliseconds() {
    in_namespace(|| async {
        let far = Far::connect().await;
        let network = network(bare()).await;
        let mut uplinks = network.uplinks();
        // The machine that runs the tests has more to do, so the best of some counts.
        let mut best = Duration::MAX;
        for _ in 0..8 {
            // The kernel tells of carrier once in a second, for all links of all namespaces, whatever happens in between.
            tokio::time::sleep(Duration::from_millis(2500)).await;
            uplinks.borrow_and_update();
            let start = std::time::Instant::now();
            far.run("ip link set device down");
            assert!(!next(&mut uplinks).await.any());
            best = best.min(start.elapsed());
            if best < Duration::from_millis(50) {
                break;
            }
            far.run("ip link set device up");
            tokio::time::timeout(Duration::from_secs(10), uplinks.wait_for(Uplinks::any)).await.unwrap().unwrap();
        }
        println!("carrier loss told after {best:?}");
        assert!(best < Duration::from_millis(50), "{best:?}");
        network.stop().await.unwrap();
    });
}

#[test]
fn a_lost_address_is_told_at_once_and_a_new_one_when_all_is_quiet() {
    in_namespace(|| async {
        let _far = Far::connect().await;
        let network = network(bare()).await;
        let mut uplinks = network.uplinks();
        let addresses = |uplinks: &Uplinks| uplinks.interfaces[0].addresses.len();
        run("ip address add 192.0.2.8/24 dev uplink");
        let start = std::time::Instant::now();
        assert_eq!(addresses(&next(&mut uplinks).await), 3);
        assert!(start.elapsed() > Duration::from_millis(100), "{:?}", start.elapsed());
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let start = std::time::Instant::now();
            run("ip address delete 192.0.2.8/24 dev uplink");
            assert_eq!(addresses(&next(&mut uplinks).await), 2);
            best = best.min(start.elapsed());
            run("ip address add 192.0.2.8/24 dev uplink");
            assert_eq!(addresses(&next(&mut uplinks).await), 3);
        }
        assert!(best < Duration::from_millis(50), "{best:?}");
        network.stop().await.unwrap();
    });
}
