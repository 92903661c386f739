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
    *uplinks.borrow_and_update()
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
