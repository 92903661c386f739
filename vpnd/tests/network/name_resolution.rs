//! The names of gateway and manager, and no others.

use std::net::{IpAddr, SocketAddr};

use url::Host;
use vpnd::network::resolver::{NameResolver, ResolveError};

use crate::far::Far;
use crate::place::in_namespace;

const RECORDS: [&str; 3] = [
    "--host-record=gateway.example,198.51.100.10,2001:db8:2::10",
    "--host-record=manager.example,203.0.113.10",
    "--cname=alias.example,gateway.example",
];

fn host(name: &str) -> Host<String> {
    Host::parse(name).unwrap()
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn only_the_given_names_are_asked_for() {
    in_namespace(|| async {
        let far = Far::connect().await;
        let dnsmasq = far.dnsmasq(&RECORDS).await;
        let resolver = NameResolver::default();
        for server in ["192.0.2.1:53", "[2001:db8:1::1]:53"] {
            let mut found = resolver.addresses(&host("gateway.example"), &[at(server)]).await.unwrap();
            found.sort();
            assert_eq!(found, [ip("198.51.100.10"), ip("2001:db8:2::10")]);
        }
        assert_eq!(
            resolver.addresses(&host("manager.example"), &[at("192.0.2.1:53")]).await.unwrap(),
            [ip("203.0.113.10")]
        );
        let alias = resolver.addresses(&host("alias.example"), &[at("192.0.2.1:53")]).await.unwrap();
        assert_eq!(alias.len(), 2);
        resolver.addresses(&host("192.0.2.99"), &[at("192.0.2.1:53")]).await.unwrap();

        let expected = [
            "A alias.example",
            "A gateway.example",
            "A manager.example",
            "AAAA alias.example",
            "AAAA gateway.example",
            "AAAA manager.example",
        ];
        let questions = || {
            let mut questions = dnsmasq.questions();
            questions.sort();
            questions.dedup();
            questions
        };
        crate::place::until("the server's log", || questions().len() >= expected.len()).await;
        assert_eq!(questions(), expected);
    });
}

#[test]
fn a_link_local_resolver_is_asked_on_its_link() {
    in_namespace(|| async {
        let far = Far::connect().await;
        far.run("ip address add fe80::53/64 dev device nodad");
        let _dnsmasq = far.dnsmasq(&RECORDS).await;
        let index = nix::net::if_::if_nametoindex("uplink").unwrap();
        crate::place::until("a link-local address", || {
            let addresses = crate::place::run("ip -6 address show dev uplink scope link");
            addresses.contains("fe80") && !addresses.contains("tentative")
        })
        .await;
        let resolvers = [at(&format!("[fe80::53%{index}]:53"))];
        let found = NameResolver::default().addresses(&host("manager.example"), &resolvers).await.unwrap();
        assert_eq!(found, [ip("203.0.113.10")]);
    });
}

#[test]
fn a_silent_resolver_is_passed_over_and_a_broken_dns_survived() {
    in_namespace(|| async {
        let far = Far::connect().await;
        let dnsmasq = far.dnsmasq(&RECORDS).await;
        let resolver = NameResolver::default();
        // Nobody has the first address; packets to it are lost.
        let resolvers = [at("198.51.100.99:53"), at("192.0.2.1:53")];
        let gateway = resolver.addresses(&host("gateway.example"), &resolvers).await.unwrap();
        assert_eq!(gateway.len(), 2);

        let error = resolver.addresses(&host("other.example"), &resolvers[1..]).await.unwrap_err();
        assert_eq!(error, ResolveError::NoAddress { name: "other.example".to_owned() });
        drop(dnsmasq);
        let error = resolver.addresses(&host("manager.example"), &resolvers[1..]).await.unwrap_err();
        let ResolveError::Failed { name, reason } = &error else { panic!("{error}") };
        assert_eq!(name, "manager.example");
        assert!(reason.contains("192.0.2.1"), "{reason}");
        assert_eq!(resolver.addresses(&host("gateway.example"), &resolvers[1..]).await.unwrap(), gateway);
        assert_eq!(resolver.addresses(&host("gateway.example"), &[]).await.unwrap(), gateway);
    });
}
