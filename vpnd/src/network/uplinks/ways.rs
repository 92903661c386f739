//! The part of the kernel's tables that makes an uplink.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::debouncer::News;
use super::{Interface, Uplinks};
use crate::network::interface::address_of;
use crate::network::kernel::{Because, KernelError};
use crate::network::routes::{destination_of, table_of};

/// Routes through routers over links with carrier, and these links.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in crate::network) struct Ways {
    links: BTreeMap<u32, String>,
    defaults: BTreeSet<DefaultRoute>,
    /// Interface and router of routes that are not default.
    others: BTreeSet<(u32, IpAddr)>,
    addresses: BTreeSet<(u32, IpNet)>,
    is_on_network: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct DefaultRoute {
    interface: u32,
    is_ipv6: bool,
    metric: u32,
    router: Option<IpAddr>,
}

impl Ways {
    pub(in crate::network) fn uplinks(&self, generation: u64) -> Uplinks {
        let interfaces: Vec<Interface> =
            self.links.iter().map(|(index, name)| self.interface(*index, name.clone())).collect();
        let ipv4 = interfaces.iter().any(|interface| interface.ipv4);
        let ipv6 = interfaces.iter().any(|interface| interface.ipv6);
        Uplinks { ipv4, ipv6, is_on_network: self.is_on_network, generation, interfaces }
    }

    /// What the kernel has now.
    pub(in crate::network) async fn read(handle: &Handle) -> Result<Self, KernelError> {
        let mut carrier = BTreeMap::new();
        let mut networks = BTreeSet::new();
        let mut links = std::pin::pin!(handle.link().get().execute());
        while let Some(link) = links.try_next().await.because(|| "list the links".to_owned())? {
            if has_carrier(&link) {
                carrier.insert(link.header.index, name_of(&link));
                networks.extend((!is_loopback_or_tunnel(&link)).then_some(link.header.index));
            }
        }
        let mut ways = Self::default();
        for query in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
            let mut routes = std::pin::pin!(handle.route().get(query).execute());
            while let Some(route) = routes.try_next().await.because(|| "list the routes".to_owned())? {
                ways.add_route(&route, &carrier);
            }
        }
        let interfaces: BTreeSet<u32> = ways.interfaces().collect();
        carrier.retain(|index, _| interfaces.contains(index));
        ways.links = carrier;
        let mut addresses = std::pin::pin!(handle.address().get().execute());
        while let Some(message) = addresses.try_next().await.because(|| "list the addresses".to_owned())? {
            ways.add_address(&message, &networks);
        }
        Ok(ways)
    }

    /// Whether a link, route or address of `former` is not here any more.
    pub(super) fn lacks_some_of(&self, former: &Self) -> bool {
        former.is_on_network && !self.is_on_network
            || !(former.links.keys().all(|index| self.links.contains_key(index))
                && former.defaults.is_subset(&self.defaults)
                && former.others.is_subset(&self.others)
                && former.addresses.is_subset(&self.addresses))
    }

    fn interface(&self, index: u32, name: String) -> Interface {
        let defaults = || self.defaults.iter().filter(move |route| route.interface == index);
        // Sorted by family, then metric.
        let metric = defaults().next().map(|route| route.metric);
        let routers: BTreeSet<IpAddr> = match metric {
            Some(_) => defaults().filter_map(|route| route.router).collect(),
            None => {
                self.others.iter().filter(|(interface, _)| *interface == index).map(|(_, router)| *router).collect()
            }
        };
        Interface {
            index,
            name,
            ipv4: defaults().any(|route| !route.is_ipv6),
            ipv6: defaults().any(|route| route.is_ipv6),
            routers: routers.into_iter().collect(),
            metric,
            addresses: self.addresses.iter().filter(|(of, _)| *of == index).map(|(_, address)| *address).collect(),
        }
    }

    fn interfaces(&self) -> impl Iterator<Item = u32> {
        let defaults = self.defaults.iter().map(|route| route.interface);
        defaults.chain(self.others.iter().map(|(interface, _)| *interface))
    }

    fn add_route(&mut self, route: &RouteMessage, carrier: &BTreeMap<u32, String>) {
        let Some(destination) = destination_of(route).filter(|_| is_main(route)) else { return };
        let is_default = destination.prefix_len() == 0;
        let metric = find(&route.attributes, |attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
        let is_ipv6 = destination.addr().is_ipv6();
        let mut add = |attributes: &[RouteAttribute], interface: Option<u32>| {
            let Some(interface) = interface.filter(|index| carrier.contains_key(index)) else { return };
            match router_of(attributes) {
                router if is_default => {
                    self.defaults.insert(DefaultRoute { interface, is_ipv6, metric: metric.unwrap_or(0), router });
                }
                Some(router) => {
                    self.others.insert((interface, router));
                }
                None => {}
            }
        };
        let hops = find(&route.attributes, |attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        match hops {
            Some(hops) => hops.iter().for_each(|hop| add(&hop.attributes, Some(hop.interface_index))),
            None => add(
                &route.attributes,
                find(&route.attributes, |attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                }),
            ),
        }
    }

    fn add_address(&mut self, message: &AddressMessage, networks: &BTreeSet<u32>) {
        let unusable = message.attributes.iter().any(|attribute| {
            let bad = AddressFlags::Tentative | AddressFlags::Dadfailed;
            matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(bad))
        });
        // Link-local ones lead nowhere beyond the link.
        let is_global = |address: &IpNet| !matches!(address.addr(), IpAddr::V6(ip) if ip.is_unicast_link_local());
        let Some(address) = address_of(message).filter(|address| !unusable && is_global(address)) else { return };
        let index = message.header.index;
        self.is_on_network |= networks.contains(&index);
        if self.links.contains_key(&index) {
            self.addresses.insert((index, address));
        }
    }
}

/// What the kernel tells.
pub(super) fn news(message: &NetlinkMessage<RouteNetlinkMessage>) -> News {
    let NetlinkPayload::InnerMessage(message) = &message.payload else { return News::Other };
    match message {
        RouteNetlinkMessage::NewLink(link) if !has_carrier(link) => News::NoCarrier,
        RouteNetlinkMessage::DelLink(_) => News::NoCarrier,
        RouteNetlinkMessage::DelAddress(_) => News::Loss,
        // The tunnel's own routes come and go in another table.
        RouteNetlinkMessage::DelRoute(route) if is_main(route) && router_or_default(route) => News::Loss,
        _ => News::Other,
    }
}

fn has_carrier(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp)
}

fn is_loopback_or_tunnel(link: &LinkMessage) -> bool {
    let is_tunnel = |info: &LinkInfo| matches!(info, LinkInfo::Kind(InfoKind::Tun));
    link.header.flags.contains(LinkFlags::Loopback)
        || link
            .attributes
            .iter()
            .any(|attribute| matches!(attribute, LinkAttribute::LinkInfo(infos) if infos.iter().any(is_tunnel)))
}

fn name_of(link: &LinkMessage) -> String {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    name.unwrap_or_else(|| link.header.index.to_string())
}

fn is_main(route: &RouteMessage) -> bool {
    route.header.kind == RouteType::Unicast && table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
}

fn router_or_default(route: &RouteMessage) -> bool {
    let is_default = || destination_of(route).is_some_and(|destination| destination.prefix_len() == 0);
    router_of(&route.attributes).is_some() || is_default()
}

fn router_of(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    find(attributes, |attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

fn find<'a, T>(attributes: &'a [RouteAttribute], pick: impl Fn(&'a RouteAttribute) -> Option<T>) -> Option<T> {
    attributes.iter().find_map(pick)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
impl Ways {
    /// One uplink with an IPv4 default route through `router`.
    pub(super) fn with_router(router: &str) -> Self {
        let router = Some(router.parse().unwrap());
        Self {
            links: BTreeMap::from([(2, "eth0".to_owned())]),
            defaults: BTreeSet::from([DefaultRoute { interface: 2, is_ipv6: false, metric: 1024, router }]),
            ..Self::default()
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_a_loss_and_what_came_is_not() {
        let former = Ways::with_router("192.0.2.1");
        let mut more = Ways::with_router("192.0.2.1");
        more.others.insert((2, "192.0.2.9".parse().unwrap()));
        more.addresses.insert((2, "192.0.2.7/24".parse().unwrap()));
        assert!(!more.lacks_some_of(&former) && !former.lacks_some_of(&former));
        assert!(former.lacks_some_of(&more));
        assert!(Ways::with_router("192.0.2.2").lacks_some_of(&former));
        assert!(Ways::default().lacks_some_of(&former));
    }

    #[test]
    fn an_interface_says_what_it_has() {
        let mut ways = Ways::with_router("192.0.2.1");
        ways.others.insert((2, "192.0.2.9".parse().unwrap()));
        ways.links.insert(3, "eth1".to_owned());
        ways.others.insert((3, "10.0.0.1".parse().unwrap()));
        let uplinks = ways.uplinks(7);
        let [first, second] = uplinks.interfaces.as_slice() else { panic!("{uplinks:?}") };
        assert_eq!((first.metric, &first.routers), (Some(1024), &vec!["192.0.2.1".parse().unwrap()]));
        assert_eq!((second.metric, &second.routers), (None, &vec!["10.0.0.1".parse().unwrap()]));
        assert!(first.is_default() && !second.is_default() && uplinks.ipv4 && !uplinks.ipv6);
    }
}
