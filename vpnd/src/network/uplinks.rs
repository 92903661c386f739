//! Tells when the machine's ways to the internet change, so that the tunnel moves to another one at once, and a lost tunnel is tried
//! again at once and not after its backoff.
//!
//! Lost carrier is told after one look at the kernel's tables, a lost address or route [`LOSS_CHECK`] later; what came is told when the
//! network has come to rest, because DHCP sets an address, then a route, then another one.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use ipnet::IpNet;
use rtnetlink::{MulticastGroup, new_multicast_connection};
use tokio::sync::watch;

use super::kernel::KernelError;

mod debouncer;
mod ways;

pub use debouncer::{AT_MOST, LOSS_CHECK, QUIET};
use debouncer::{Check, Debouncer, News};
pub(super) use ways::Ways;
use ways::news;

/// How long to wait before watching again, after the kernel could not keep up telling.
const PAUSE: Duration = Duration::from_secs(1);

/// The machine's ways to the internet, now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Uplinks {
    /// There is an IPv4 default route over a link with carrier.
    pub ipv4: bool,
    /// There is an IPv6 default route over a link with carrier.
    pub ipv6: bool,
    /// Some interface has carrier and an address, if no router. The loopback interface and tunnels do not count.
    pub is_on_network: bool,
    /// Grows with each change of the rest.
    pub generation: u64,
    /// The interfaces, by index.
    pub interfaces: Vec<Interface>,
}

/// A network interface that is up, has carrier, and a route through a router in the machine's main table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's number; a link that is made anew gets another one.
    pub index: u32,
    /// The name.
    pub name: String,
    /// It has an IPv4 default route.
    pub ipv4: bool,
    /// It has an IPv6 default route.
    pub ipv6: bool,
    /// The routers of its default routes; without default route, those of its other routes. Empty on a link with one other end.
    pub routers: Vec<IpAddr>,
    /// The lowest metric of its default routes, IPv4 before IPv6, which counts otherwise; `None` without default route.
    pub metric: Option<u32>,
    /// Its addresses that lead beyond the link and can be used.
    pub addresses: Vec<IpNet>,
}

impl Interface {
    /// It has a default route.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.ipv4 || self.ipv6
    }
}

impl Uplinks {
    /// There is a way at all, if only to some destinations.
    #[must_use]
    pub fn any(&self) -> bool {
        !self.interfaces.is_empty()
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
    debouncer.event(News::Loss, Instant::now());
    loop {
        let due = debouncer.due();
        tokio::select! {
            () = &mut connection => return Ok(()),
            event = events.next() => match event {
                Some((message, _)) => debouncer.event(news(&message), Instant::now()),
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                let check = debouncer.take(Instant::now());
                let read = Ways::read(&handle);
                let ways = tokio::select! {
                    () = &mut connection => return Ok(()),
                    ways = read => ways?,
                };
                if check == Check::Everything || ways.lacks_some_of(known) {
                    publish(sender, known, ways);
                }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_real_changes_are_told() {
        let (sender, mut receiver) = watch::channel(Uplinks::default());
        let mut known = Ways::default();
        publish(&sender, &mut known, Ways::with_router("192.0.2.1"));
        assert!(receiver.has_changed().unwrap());
        let told = receiver.borrow_and_update().clone();
        assert_eq!((told.ipv4, told.ipv6, told.generation), (true, false, 1));
        publish(&sender, &mut known, Ways::with_router("192.0.2.1"));
        assert!(!receiver.has_changed().unwrap());
        publish(&sender, &mut known, Ways::with_router("192.0.2.2"));
        assert_eq!(receiver.borrow_and_update().generation, 2);
        publish(&sender, &mut known, Ways::default());
        assert_eq!(*receiver.borrow_and_update(), Uplinks { generation: 3, ..Uplinks::default() });
    }
}
