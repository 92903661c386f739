//! Which addresses and routes a tunnel needs, without I/O.
//!
//! A destination that the gateway advertises and the configuration wants goes through the tunnel, or nowhere: where the gateway
//! assigned no address of its family, it is unreachable rather than left to the uplink.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use super::Tunnel;

/// More routes than these are refused: a gateway must not be able to fill the kernel's memory.
pub const MOST_ROUTES: usize = 2048;

/// The smallest MTU with which the kernel speaks IPv6 ([RFC 8200] section 5).
///
/// [RFC 8200]: https://www.rfc-editor.org/rfc/rfc8200
const IPV6_MTU: u16 = 1280;

/// What the kernel is to have while the tunnel is up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// The interface's addresses: /32 and /128.
    pub addresses: Vec<IpNet>,
    /// The tunnel's table. The longest prefix decides, as everywhere.
    pub routes: BTreeMap<IpNet, Route>,
}

/// Where a destination goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Into the tunnel, from this address unless the program chose one.
    Tunnel(IpAddr),
    /// Nowhere.
    Unreachable,
    /// Where the machine's other tables say.
    Uplink,
}

/// The gateway advertised too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway advertises more than {MOST_ROUTES} routes; advertise fewer and larger ranges")]
pub struct TooManyRoutes;

impl Plan {
    /// Plans for a tunnel.
    ///
    /// # Errors
    /// [`TooManyRoutes`].
    pub fn new(tunnel: &Tunnel) -> Result<Self, TooManyRoutes> {
        let addresses = interface_addresses(tunnel);
        let source = |family: IpNet| {
            let same_family = |net: &&IpNet| net.addr().is_ipv4() == family.addr().is_ipv4();
            addresses.iter().find(same_family).map(IpNet::addr)
        };
        let into_tunnel = |net: IpNet| source(net).map_or(Route::Unreachable, Route::Tunnel);

        let excluded = IpNet::aggregate(&tunnel.excluded.iter().map(IpNet::trunc).collect());
        let covered = |nets: &[IpNet], net: IpNet| nets.iter().any(|other| other.contains(&net));
        let mut prefixes = destinations(tunnel)?;
        prefixes.retain(|prefix| !covered(&excluded, *prefix));

        let mut routes: BTreeMap<IpNet, Route> =
            prefixes.iter().map(|prefix| (*prefix, into_tunnel(*prefix))).collect();
        for net in &excluded {
            if covered(&prefixes, *net) {
                routes.insert(*net, Route::Uplink);
            }
        }
        for server in &tunnel.dns.servers {
            let host = IpNet::from(*server);
            if !covered(&prefixes, host) || covered(&excluded, host) {
                routes.insert(host, into_tunnel(host));
            }
        }
        if routes.len() > MOST_ROUTES {
            return Err(TooManyRoutes);
        }
        Ok(Self { addresses, routes })
    }

    /// The destinations that go into the tunnel.
    #[must_use]
    pub fn tunnel_routes(&self) -> Vec<IpNet> {
        let through = self.routes.iter().filter(|(_, route)| matches!(route, Route::Tunnel(_)));
        through.map(|(net, _)| *net).collect()
    }
}

/// One host address for each assigned prefix; a refused request is answered with the unspecified address (RFC 9484 section 4.7.1).
fn interface_addresses(tunnel: &Tunnel) -> Vec<IpNet> {
    let mut addresses = Vec::new();
    for assigned in &tunnel.addresses {
        let host = match assigned.addr() {
            address if address == assigned.network() => assigned.hosts().next().unwrap_or(address),
            address => address,
        };
        let usable = !assigned.addr().is_unspecified() && (host.is_ipv4() || tunnel.mtu >= IPV6_MTU);
        if usable && !addresses.contains(&IpNet::from(host)) {
            addresses.push(IpNet::from(host));
        }
    }
    addresses
}

/// What is both advertised and wanted, as the fewest prefixes. A range for a single IP protocol counts as one for all: its
/// destinations are the company's, and must not leave the machine on any other way.
fn destinations(tunnel: &Tunnel) -> Result<Vec<IpNet>, TooManyRoutes> {
    let mut advertised = Vec::new();
    for range in &tunnel.advertised {
        advertised.extend(range.prefixes());
        if advertised.len() > MOST_ROUTES {
            // Before giving up: neighbours may merge.
            advertised = IpNet::aggregate(&advertised);
        }
        if advertised.len() > MOST_ROUTES {
            return Err(TooManyRoutes);
        }
    }
    let advertised = IpNet::aggregate(&advertised);
    if tunnel.wanted.is_empty() {
        return Ok(advertised);
    }
    let wanted = IpNet::aggregate(&tunnel.wanted.iter().map(IpNet::trunc).collect());
    let intersections = advertised.iter().flat_map(|offer| {
        wanted.iter().filter_map(move |wish| match () {
            () if offer.contains(wish) => Some(*wish),
            () if wish.contains(offer) => Some(*offer),
            () => None,
        })
    });
    Ok(IpNet::aggregate(&intersections.collect()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use m2m_protocol::device_config::Dns;
    use m2m_tunnel::routes::IpRange;
    use proptest::prelude::*;

    use super::*;

    fn nets<const N: usize>(texts: [&str; N]) -> Vec<IpNet> {
        texts.into_iter().map(|text| text.parse().unwrap()).collect()
    }

    fn range(start: &str, end: &str) -> IpRange {
        IpRange::new(start.parse().unwrap(), end.parse().unwrap(), 0).unwrap()
    }

    fn tunnel() -> Tunnel {
        Tunnel {
            addresses: nets(["10.99.0.2/32", "fd99::2/128"]),
            advertised: vec![range("10.20.0.0", "10.20.1.255"), range("fd20::", "fd20::ffff")],
            mtu: 1280,
            ..Tunnel::default()
        }
    }

    fn shown(plan: &Plan) -> Vec<String> {
        let text = |route: &Route| match route {
            Route::Tunnel(source) => format!("src {source}"),
            Route::Unreachable => "unreachable".to_owned(),
            Route::Uplink => "uplink".to_owned(),
        };
        plan.routes.iter().map(|(net, route)| format!("{net} {}", text(route))).collect()
    }

    #[test]
    fn all_that_is_advertised_unless_some_is_wanted() {
        let plan = Plan::new(&tunnel()).unwrap();
        assert_eq!(plan.addresses, nets(["10.99.0.2/32", "fd99::2/128"]));
        assert_eq!(shown(&plan), ["10.20.0.0/23 src 10.99.0.2", "fd20::/112 src fd99::2"]);
        let wanted = nets(["10.20.1.7/24", "0.0.0.0/8"]);
        let plan = Plan::new(&Tunnel { wanted, ..tunnel() }).unwrap();
        assert_eq!(shown(&plan), ["10.20.1.0/24 src 10.99.0.2"]);
    }

    #[test]
    fn a_family_without_address_is_unreachable_and_not_left_to_the_uplink() {
        let plan = Plan::new(&Tunnel { addresses: nets(["10.99.0.2/32", "::/128"]), ..tunnel() }).unwrap();
        assert_eq!(shown(&plan), ["10.20.0.0/23 src 10.99.0.2", "fd20::/112 unreachable"]);
        let plan = Plan::new(&Tunnel { mtu: 1279, ..tunnel() }).unwrap();
        assert_eq!(shown(&plan), ["10.20.0.0/23 src 10.99.0.2", "fd20::/112 unreachable"]);
        assert_eq!(plan.tunnel_routes(), nets(["10.20.0.0/23"]));
    }

    #[test]
    fn excluded_destinations_keep_the_uplink_and_resolvers_never_do() {
        let plan = Plan::new(&Tunnel {
            advertised: vec![range("0.0.0.0", "255.255.255.255")],
            excluded: nets(["192.0.2.1/32", "10.0.0.0/8", "2001:db8::/32"]),
            dns: Dns { servers: vec!["10.20.0.80".parse().unwrap(), "172.16.0.1".parse().unwrap()], search: vec![] },
            ..tunnel()
        })
        .unwrap();
        let expected =
            ["0.0.0.0/0 src 10.99.0.2", "10.0.0.0/8 uplink", "10.20.0.80/32 src 10.99.0.2", "192.0.2.1/32 uplink"];
        assert_eq!(shown(&plan), expected);
        let plan = Plan::new(&Tunnel { excluded: nets(["10.0.0.0/8"]), ..tunnel() }).unwrap();
        assert_eq!(shown(&plan), ["fd20::/112 src fd99::2"]);
        let dns = Dns { servers: vec!["192.0.2.53".parse().unwrap()], search: vec![] };
        let plan = Plan::new(&Tunnel { dns, ..tunnel() }).unwrap();
        assert_eq!(plan.routes[&"192.0.2.53/32".parse().unwrap()], Route::Tunnel("10.99.0.2".parse().unwrap()));
    }

    #[test]
    fn a_prefix_gives_one_host_address() {
        let plan = Plan::new(&Tunnel { addresses: nets(["10.99.0.0/24", "10.99.0.1/32", "fd99::7/64"]), ..tunnel() });
        assert_eq!(plan.unwrap().addresses, nets(["10.99.0.1/32", "fd99::7/128"]));
    }

    #[test]
    fn endless_advertisements_are_refused() {
        let hosts = (0..5000u32).map(|n| IpRange::from_prefix(IpNet::from(IpAddr::from(Ipv4Addr::from(n * 2)))));
        let crowded = Tunnel { advertised: hosts.collect(), ..tunnel() };
        assert_eq!(Plan::new(&crowded), Err(TooManyRoutes));
        let neighbours = (0..5000u32).map(|n| IpRange::from_prefix(IpNet::from(IpAddr::from(Ipv4Addr::from(n)))));
        let plan = Plan::new(&Tunnel { advertised: neighbours.collect(), ..tunnel() }).unwrap();
        assert!(plan.routes.len() < 20, "{}", plan.routes.len());
    }

    /// What the kernel does with a table.
    fn lookup(plan: &Plan, destination: IpAddr) -> Option<Route> {
        let matching = plan.routes.iter().filter(|(net, _)| net.contains(&destination));
        matching.max_by_key(|(net, _)| net.prefix_len()).map(|(_, route)| *route)
    }

    // Addresses from a small space, so that everything overlaps.
    fn v4() -> impl Strategy<Value = IpAddr> {
        (0u32..64).prop_map(|n| Ipv4Addr::from(0x0a00_0000 + n).into())
    }

    fn v6() -> impl Strategy<Value = IpAddr> {
        (0u128..64).prop_map(|n| Ipv6Addr::from((0xfd20u128 << 112) + n).into())
    }

    fn any_range() -> impl Strategy<Value = IpRange> {
        prop_oneof![(v4(), v4()), (v6(), v6())].prop_map(|(a, b)| IpRange::new(a.min(b), a.max(b), 0).unwrap())
    }

    fn any_net() -> impl Strategy<Value = IpNet> {
        prop_oneof![
            (v4(), 26u8..=32).prop_map(|(address, length)| IpNet::new(address, length).unwrap()),
            (v6(), 122u8..=128).prop_map(|(address, length)| IpNet::new(address, length).unwrap()),
        ]
    }

    proptest! {
        #[test]
        fn ranges_become_prefixes_that_cover_exactly(start in any::<u32>(), end in any::<u32>(), probe in any::<u32>()) {
            let (start, end) = (start.min(end), start.max(end));
            let range = IpRange::new(Ipv4Addr::from(start).into(), Ipv4Addr::from(end).into(), 0).unwrap();
            let plan = Plan::new(&Tunnel { advertised: vec![range], ..tunnel() }).unwrap();
            prop_assert!(plan.routes.len() <= 62);
            let size: u64 = plan.routes.keys().map(|net| 1u64 << (32 - net.prefix_len())).sum();
            prop_assert_eq!(size, u64::from(end - start) + 1);
            for probe in [probe, start, end, start.wrapping_sub(1), end.wrapping_add(1)] {
                let inside = (start..=end).contains(&probe);
                prop_assert_eq!(lookup(&plan, Ipv4Addr::from(probe).into()).is_some(), inside);
            }
        }

        #[test]
        fn ipv6_ranges_too(start in any::<u128>(), end in any::<u128>(), probe in any::<u128>()) {
            let (start, end) = (start.min(end), start.max(end));
            let range = IpRange::new(Ipv6Addr::from(start).into(), Ipv6Addr::from(end).into(), 0).unwrap();
            let plan = Plan::new(&Tunnel { advertised: vec![range], ..tunnel() }).unwrap();
            prop_assert!(plan.routes.len() <= 254);
            for probe in [probe, start, end, start.wrapping_sub(1), end.wrapping_add(1)] {
                let inside = (start..=end).contains(&probe);
                prop_assert_eq!(lookup(&plan, Ipv6Addr::from(probe).into()).is_some(), inside);
            }
        }

        #[test]
        fn every_destination_goes_where_it_should(
            advertised in prop::collection::vec(any_range(), 0..5),
            wanted in prop::collection::vec(any_net(), 0..4),
            excluded in prop::collection::vec(any_net(), 0..3),
            servers in prop::collection::vec(prop_oneof![v4(), v6()], 0..3),
            has_v4 in any::<bool>(),
            has_v6 in any::<bool>(),
        ) {
            let mut addresses = Vec::new();
            addresses.extend(has_v4.then(|| IpNet::V4(Ipv4Net::from(Ipv4Addr::new(10, 99, 0, 2)))));
            addresses.extend(has_v6.then(|| IpNet::V6(Ipv6Net::from("fd99::2".parse::<Ipv6Addr>().unwrap()))));
            let dns = Dns { servers: servers.clone(), search: vec![] };
            let tunnel = Tunnel { addresses, advertised, wanted, excluded, dns, mtu: 1280 };
            let plan = Plan::new(&tunnel).unwrap();
            let all = (0..64u32).map(|n| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + n)))
                .chain((0..64u128).map(|n| IpAddr::from(Ipv6Addr::from((0xfd20u128 << 112) + n))));
            for destination in all {
                let within = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&destination));
                let offered = tunnel.advertised.iter().any(|range| (range.start()..=range.end()).contains(&destination));
                let wished = tunnel.wanted.is_empty() || within(&tunnel.wanted);
                let through = servers.contains(&destination) || (offered && wished && !within(&tunnel.excluded));
                let has_address = if destination.is_ipv4() { has_v4 } else { has_v6 };
                match lookup(&plan, destination) {
                    Some(Route::Tunnel(source)) => {
                        prop_assert!(through && has_address && source.is_ipv4() == destination.is_ipv4());
                    }
                    Some(Route::Unreachable) => prop_assert!(through && !has_address),
                    Some(Route::Uplink) | None => prop_assert!(!through),
                }
            }
        }
    }
}
