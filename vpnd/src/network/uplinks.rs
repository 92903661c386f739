//! Tells when the machine's way to the internet changes, so that a lost tunnel is tried again at once and not after its backoff.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::LinkFlags;
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType};
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder, new_multicast_connection};
use tokio::sync::watch;

use super::interface::address_of;
use super::kernel::{Because, KernelError};
use super::routes::{destination_of, table_of};

/// A change counts when nothing else has changed for this long: DHCP sets an address, then a route, then another one.
const QUIET: Duration = Duration::from_millis(200);

/// A change counts after this long, however restless the network is.
const AT_MOST: Duration = Duration::from_secs(2);

/// How long to wait before watching again, after the kernel could not keep up telling.
const PAUSE: Duration = Duration::from_secs(1);

/// The machine's ways to the internet, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uplinks {
    /// There is an IPv4 default route over a link with carrier.
    pub ipv4: bool,
    /// There is an IPv6 default route over a link with carrier.
    pub ipv6: bool,
    /// Grows with each change of the default routes and of the addresses of their links, so that one way replacing another is seen.
    pub generation: u64,
}

impl Uplinks {
    /// There is a way at all.
    #[must_use]
    pub fn any(&self) -> bool {
        self.ipv4 || self.ipv6
    }
}

/// Watches for changes from `known` on, until the receivers are gone. The tunnel's own interface and table are no uplink.
pub(super) async fn watch(sender: watch::Sender<Uplinks>, mut known: Ways) {
    loop {
        tokio::select! {
            () = sender.closed() => return,
            end = watch_once(&sender, &mut known) => {
                if let Err(error) = end {
                    log::warn!("cannot follow the uplinks: {error}");
                }
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn watch_once(sender: &watch::Sender<Uplinks>, known: &mut Ways) -> Result<(), KernelError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, mut events) =
        new_multicast_connection(&groups).map_err(|error| KernelError::socket(&error))?;
    let mut connection = std::pin::pin!(connection);
    let mut debouncer = Debouncer::default();
    // What happened before the events were subscribed.
    debouncer.event(Instant::now());
    loop {
        let due = debouncer.due();
        tokio::select! {
            () = &mut connection => return Ok(()),
            event = events.next() => match event {
                Some(_) => debouncer.event(Instant::now()),
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                debouncer.clear();
                let read = Ways::read(&handle);
                let ways = tokio::select! {
                    () = &mut connection => return Ok(()),
                    ways = read => ways?,
                };
                publish(sender, known, ways);
            }
        }
    }
}

fn publish(sender: &watch::Sender<Uplinks>, known: &mut Ways, ways: Ways) {
    if ways == *known {
        return;
    }
    sender.send_modify(|uplinks| *uplinks = ways.uplinks(uplinks.generation + 1));
    *known = ways;
    log::debug!("uplinks: {:?}", *sender.borrow());
}

/// Waits for the end of a burst of events.
#[derive(Debug, Default)]
struct Debouncer {
    burst: Option<Burst>,
}

#[derive(Debug)]
struct Burst {
    first: Instant,
    last: Instant,
}

impl Debouncer {
    fn event(&mut self, now: Instant) {
        self.burst.get_or_insert(Burst { first: now, last: now }).last = now;
    }

    /// When the burst counts as over; `None` without one.
    fn due(&self) -> Option<Instant> {
        self.burst.as_ref().map(|burst| (burst.last + QUIET).min(burst.first + AT_MOST))
    }

    fn clear(&mut self) {
        self.burst = None;
    }
}

/// Default routes over links with carrier, and these links' addresses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ways {
    /// Interface, gateway, metric, is it IPv6.
    routes: BTreeSet<(u32, Option<IpAddr>, u32, bool)>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

impl Ways {
    pub(super) fn uplinks(&self, generation: u64) -> Uplinks {
        let has = |ipv6: bool| self.routes.iter().any(|(.., is_ipv6)| *is_ipv6 == ipv6);
        Uplinks { ipv4: has(false), ipv6: has(true), generation }
    }

    /// What the kernel has now.
    pub(super) async fn read(handle: &Handle) -> Result<Self, KernelError> {
        let mut carrier = BTreeMap::new();
        let mut links = std::pin::pin!(handle.link().get().execute());
        while let Some(link) = links.try_next().await.because(|| "list the links".to_owned())? {
            carrier.insert(link.header.index, link.header.flags.contains(LinkFlags::Up | LinkFlags::LowerUp));
        }
        let mut ways = Self::default();
        for query in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
            let mut routes = std::pin::pin!(handle.route().get(query).execute());
            while let Some(route) = routes.try_next().await.because(|| "list the routes".to_owned())? {
                ways.add_route(&route, &carrier);
            }
        }
        let links: BTreeSet<u32> = ways.routes.iter().map(|(index, ..)| *index).collect();
        let mut addresses = std::pin::pin!(handle.address().get().execute());
        while let Some(message) = addresses.try_next().await.because(|| "list the addresses".to_owned())? {
            let tentative = message.attributes.iter().any(
                |attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.contains(AddressFlags::Tentative)),
            );
            // Link-local ones lead nowhere beyond the link.
            if let Some(address) = address_of(&message).map(|net| net.addr())
                && links.contains(&message.header.index)
                && !tentative
                && !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
            {
                ways.addresses.insert((message.header.index, address));
            }
        }
        Ok(ways)
    }

    fn add_route(&mut self, route: &RouteMessage, carrier: &BTreeMap<u32, bool>) {
        let is_default = route.header.kind == RouteType::Unicast
            && table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
            && destination_of(route).is_some_and(|destination| destination.prefix_len() == 0);
        if !is_default {
            return;
        }
        let is_ipv6 = destination_of(route).is_some_and(|destination| destination.addr().is_ipv6());
        let metric = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Priority(metric) => Some(*metric),
            _ => None,
        });
        let metric = metric.unwrap_or(0);
        let mut add = |attributes: &[RouteAttribute], index: Option<u32>| {
            let index = index.or_else(|| {
                attributes.iter().find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                })
            });
            let Some(index) = index.filter(|index| carrier.get(index) == Some(&true)) else { return };
            self.routes.insert((index, gateway(attributes), metric, is_ipv6));
        };
        let hops = route.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::MultiPath(hops) => Some(hops),
            _ => None,
        });
        match hops {
            Some(hops) => hops.iter().for_each(|hop| add(&hop.attributes, Some(hop.interface_index))),
            None => add(&route.attributes, None),
        }
    }
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Gateway(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_counts_once_and_not_too_late() {
        let start = Instant::now();
        let ms = Duration::from_millis;
        let mut debouncer = Debouncer::default();
        assert_eq!(debouncer.due(), None);
        debouncer.event(start);
        assert_eq!(debouncer.due(), Some(start + QUIET));
        debouncer.event(start + ms(150));
        assert_eq!(debouncer.due(), Some(start + ms(150) + QUIET));
        for step in 1..40 {
            debouncer.event(start + ms(150 * step));
        }
        assert_eq!(debouncer.due(), Some(start + AT_MOST));
        debouncer.clear();
        assert_eq!(debouncer.due(), None);
    }

    #[test]
    fn only_real_changes_are_told() {
        let (sender, mut receiver) = watch::channel(Uplinks::default());
        let mut known = Ways::default();
        let ways = |gateway: &str| Ways {
            routes: BTreeSet::from([(2, Some(gateway.parse().unwrap()), 1024, false)]),
            addresses: BTreeSet::new(),
        };
        publish(&sender, &mut known, ways("192.0.2.1"));
        assert!(receiver.has_changed().unwrap());
        assert_eq!(*receiver.borrow_and_update(), Uplinks { ipv4: true, ipv6: false, generation: 1 });
        publish(&sender, &mut known, ways("192.0.2.1"));
        assert!(!receiver.has_changed().unwrap());
        publish(&sender, &mut known, ways("192.0.2.2"));
        assert_eq!(receiver.borrow_and_update().generation, 2);
        publish(&sender, &mut known, Ways::default());
        assert_eq!(*receiver.borrow_and_update(), Uplinks { ipv4: false, ipv6: false, generation: 3 });
    }
}
