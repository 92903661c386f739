//! The ways to the internet that a connection can take.

use std::net::IpAddr;

use m2m_protocol::device_config;

use crate::network::uplinks::{Interface, Uplinks};

/// Names an uplink: the index of its network interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UplinkId(pub u32);

impl UplinkId {
    /// Whatever way the kernel's routes take: sockets are bound to no interface.
    pub const ANY: Self = Self(0);
}

/// A network interface that is up, with all that decides about its use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uplink {
    /// The interface.
    pub id: UplinkId,
    /// Its name; an interface that was made anew and has the same name is the same uplink.
    pub name: String,
    /// Lower is preferred.
    pub priority: u16,
    /// Used only where no other works.
    pub metered: bool,
    /// Lower is preferred among uplinks of the same priority: the metric of the machine's default route.
    pub metric: u32,
    /// The addresses that connections can come from.
    pub addresses: Vec<IpAddr>,
    /// Names the network that the interface is in now, so that what is learned of it is remembered.
    pub network: String,
}

impl Uplink {
    /// What the machine has, with what the device's configuration says about it: the first entry that fits an interface counts.
    ///
    /// An interface without default route is an uplink when an entry names it, and when there is no other. Where no interface has a router
    /// at all, but the machine is on some network, the kernel's routes are asked ([`UplinkId::ANY`]): the gateway may be on it, too.
    #[must_use]
    pub fn list(uplinks: &Uplinks, entries: &[device_config::Uplink]) -> Vec<Self> {
        let of = |wanted: fn(&Interface, bool) -> bool| -> Vec<Self> {
            let fitting = uplinks.interfaces.iter().filter_map(|interface| {
                let entry = entries.iter().find(|entry| entry.interface.matches(&interface.name));
                wanted(interface, entry.is_some()).then(|| Self::new(interface, entry))
            });
            fitting.collect()
        };
        let listed = of(|interface, is_named| interface.is_default() || is_named);
        if !listed.is_empty() {
            return listed;
        }
        let others = of(|_, _| true);
        if !others.is_empty() || !uplinks.is_on_network {
            return others;
        }
        vec![Self {
            id: UplinkId::ANY,
            name: "any".to_owned(),
            priority: 0,
            metered: false,
            metric: u32::MAX,
            addresses: Vec::new(),
            network: "any".to_owned(),
        }]
    }

    fn new(interface: &Interface, entry: Option<&device_config::Uplink>) -> Self {
        Self {
            id: UplinkId(interface.index),
            name: interface.name.clone(),
            priority: entry.map_or(0, |entry| entry.priority),
            metered: entry.is_some_and(|entry| entry.metered),
            metric: interface.metric.unwrap_or(u32::MAX),
            addresses: interface.addresses.iter().map(|address| address.addr()).collect(),
            network: network_of(interface),
        }
    }

    /// Orders uplinks, the best first.
    pub(super) fn rank(&self) -> UplinkRank {
        UplinkRank { metered: self.metered, priority: self.priority, metric: self.metric, id: self.id }
    }
}

/// How good an uplink is; less is better. The index makes the order total, so that there is one best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct UplinkRank {
    metered: bool,
    priority: u16,
    metric: u32,
    id: UplinkId,
}

/// Interface, router and IPv4 network. Without IPv4 the router alone: its link-local address comes from its own hardware address, and
/// prefixes change. A link with one other end has no router, and is named by the interface.
fn network_of(interface: &Interface) -> String {
    let name = &interface.name;
    let of_ipv4 = interface.routers.iter().find(|router| router.is_ipv4());
    let Some(router) = of_ipv4.or(interface.routers.first()) else { return name.clone() };
    let network = interface.addresses.iter().find(|address| address.contains(router) && router.is_ipv4());
    match network {
        Some(network) => format!("{name} {router} {}", network.trunc()),
        None => format!("{name} {router}"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, metric: Option<u32>, routers: &[&str], addresses: &[&str]) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            ipv4: metric.is_some(),
            ipv6: false,
            routers: routers.iter().map(|text| text.parse().unwrap()).collect(),
            metric,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    fn entry(text: &str) -> device_config::Uplink {
        serde_json::from_str(text).unwrap()
    }

    fn list(interfaces: &[Interface], entries: &[device_config::Uplink]) -> Vec<Uplink> {
        let uplinks = Uplinks { interfaces: interfaces.to_vec(), is_on_network: true, ..Uplinks::default() };
        let mut list = Uplink::list(&uplinks, entries);
        list.sort_by_key(Uplink::rank);
        list
    }

    #[test]
    fn metered_ones_come_last_then_priority_and_metric_decide() {
        let machine = [
            interface(2, "eth0", Some(100), &["192.0.2.1"], &["192.0.2.7/24"]),
            interface(3, "wlan0", Some(600), &["10.0.0.1"], &["10.0.0.7/8"]),
            interface(4, "wwan0", Some(0), &[], &["100.64.0.7/32"]),
            interface(5, "eth1", Some(50), &["198.51.100.1"], &["198.51.100.7/24"]),
        ];
        let entries = [
            entry(r#"{"interface": "eth0", "priority": 5}"#),
            entry(r#"{"interface": "eth*", "priority": 9}"#),
            entry(r#"{"interface": "ww*", "priority": 0, "metered": true}"#),
        ];
        let names = |entries: &[_]| -> Vec<String> { list(&machine, entries).into_iter().map(|u| u.name).collect() };
        assert_eq!(names(&entries), ["wlan0", "eth0", "eth1", "wwan0"]);
        assert_eq!(names(&[]), ["wwan0", "eth1", "eth0", "wlan0"]);
    }

    #[test]
    fn a_network_is_known_by_its_router() {
        let of = |routers: &[&str], addresses: &[&str]| network_of(&interface(2, "eth0", Some(0), routers, addresses));
        assert_eq!(of(&["192.0.2.1"], &["192.0.2.7/24"]), "eth0 192.0.2.1 192.0.2.0/24");
        // IPv6 comes a moment later than IPv4, and does not make it another network.
        assert_eq!(of(&["192.0.2.1", "fe80::1"], &["192.0.2.7/24", "2001:db8::7/64"]), "eth0 192.0.2.1 192.0.2.0/24");
        assert_eq!(of(&["fe80::1"], &["2001:db8::7/64"]), "eth0 fe80::1");
        assert_eq!(of(&[], &["100.64.0.7/32"]), "eth0");
    }

    #[test]
    fn an_interface_without_default_route_is_used_when_it_is_named_or_the_only_one() {
        let cable = interface(2, "eth0", Some(100), &["192.0.2.1"], &["192.0.2.7/24"]);
        let plant = interface(3, "eth1", None, &["10.0.0.1"], &["10.0.0.7/8"]);
        let names = |machine: &[Interface], entries: &[_]| -> Vec<String> {
            list(machine, entries).into_iter().map(|uplink| uplink.name).collect()
        };
        assert_eq!(names(&[cable.clone(), plant.clone()], &[]), ["eth0"]);
        assert_eq!(names(&[cable, plant.clone()], &[entry(r#"{"interface": "eth1"}"#)]), ["eth0", "eth1"]);
        assert_eq!(names(&[plant], &[]), ["eth1"]);
        assert_eq!(list(&[], &[])[0].id, UplinkId::ANY);
        assert_eq!(Uplink::list(&Uplinks::default(), &[]), []);
    }
}
