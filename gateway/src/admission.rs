//! Who may begin a handshake: a flood must neither fill the memory nor keep the devices out.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Handshakes that have been displaced and are not over yet.
const LEAVING: usize = 64;

/// Counts the handshakes that are under way over one transport.
#[derive(Debug)]
pub(crate) struct Admission {
    limits: Limits,
    under_way: Arc<Mutex<UnderWay>>,
}

/// How many handshakes may be under way at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// In all.
    pub(crate) max: u32,
    /// From one [`Source`].
    pub(crate) max_per_source: u32,
    /// While there are so many, clients prove their address first.
    pub(crate) retry_above: u32,
}

impl Admission {
    /// Nobody is there yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, under_way: Arc::default() }
    }

    /// Decides about the first packet of a connection that comes from `remote`, as it says or as it has proved.
    pub(crate) fn decide(&self, remote: IpAddr, address_proven: bool) -> Decision {
        let mut under_way = lock(&self.under_way);
        if under_way.total >= self.limits.retry_above && !address_proven {
            return Decision::Retry;
        }
        if under_way.total >= self.limits.max {
            return Decision::Refuse;
        }
        // Who forges the address of a device must not use up what the device has.
        let source = address_proven.then(|| Source::of(remote));
        if source.is_some_and(|source| under_way.of(source) >= self.limits.max_per_source) {
            return Decision::Refuse;
        }
        Decision::Accept(self.begin(&mut under_way, source, None))
    }

    /// Lets a connection over TCP in, whose client has proved its address. When there are as many as there may be, it takes the place
    /// of the oldest one: waiting costs a client nothing there, so that those who only wait would keep the others out. `None` to
    /// refuse it.
    pub(crate) fn displace(&self, remote: IpAddr) -> Option<(Handshake, Displaced)> {
        let source = Source::of(remote);
        let mut under_way = lock(&self.under_way);
        let leaving = under_way.total as usize - under_way.in_order.len();
        if under_way.of(source) >= self.limits.max_per_source || leaving >= LEAVING {
            return None;
        }
        while under_way.in_order.len() >= self.limits.max as usize {
            let (_, oldest) = under_way.in_order.pop_first()?;
            // One that has its tunnel by now is about to leave by itself.
            let _ = oldest.send(());
        }
        let (order, displaced) = oneshot::channel();
        let number = under_way.next;
        under_way.next += 1;
        under_way.in_order.insert(number, order);
        Some((self.begin(&mut under_way, Some(source), Some(number)), displaced))
    }

    fn begin(&self, under_way: &mut UnderWay, source: Option<Source>, number: Option<u64>) -> Handshake {
        if let Some(source) = source {
            *under_way.by_source.entry(source).or_default() += 1;
        }
        under_way.total += 1;
        Handshake { source, number, under_way: Arc::clone(&self.under_way) }
    }

    /// The number of handshakes under way.
    pub(crate) fn under_way(&self) -> u32 {
        lock(&self.under_way).total
    }
}

/// What to do with the first packet of a connection.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Begin the handshake.
    Accept(Handshake),
    /// Ask the client to come again with a token, which proves its address (RFC 9000 section 8.1.2). Costs no state.
    Retry,
    /// Refuse.
    Refuse,
}

/// Comes when the handshake has to give up its place.
pub(crate) type Displaced = oneshot::Receiver<()>;

/// A handshake under way; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    /// Its place in the order, if it can be displaced.
    number: Option<u64>,
    /// None while the address is not proven.
    source: Option<Source>,
    under_way: Arc<Mutex<UnderWay>>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);
        under_way.total -= 1;
        if let Some(number) = self.number {
            under_way.in_order.remove(&number);
        }
        let Some(source) = self.source else { return };
        let Some(count) = under_way.by_source.get_mut(&source) else { return };
        *count -= 1;
        if *count == 0 {
            under_way.by_source.remove(&source);
        }
    }
}

#[derive(Debug, Default)]
struct UnderWay {
    total: u32,
    /// Never 0.
    by_source: HashMap<Source, u32>,
    /// Those that can be displaced, oldest first.
    in_order: BTreeMap<u64, oneshot::Sender<()>>,
    next: u64,
}

impl UnderWay {
    fn of(&self, source: Source) -> u32 {
        self.by_source.get(&source).copied().unwrap_or_default()
    }
}

/// One IPv4 address, or the /64 of an IPv6 address, all of which one customer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Source(IpAddr);

impl Source {
    fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HERE: &str = "192.0.2.1";

    /// Comes and stays, and says what became of it.
    fn come(admission: &Admission, staying: &mut Vec<Handshake>, from: &str, proven: bool) -> &'static str {
        match admission.decide(from.parse().unwrap(), proven) {
            Decision::Accept(handshake) => {
                staying.push(handshake);
                "accept"
            }
            Decision::Retry => "retry",
            Decision::Refuse => "refuse",
        }
    }

    #[test]
    fn first_free_then_with_proof_then_none() {
        let admission = Admission::new(Limits { max: 3, max_per_source: 3, retry_above: 1 });
        let mut staying = Vec::new();
        let mut come = |proven| come(&admission, &mut staying, HERE, proven);
        assert_eq!([come(false), come(false), come(true), come(true)], ["accept", "retry", "accept", "accept"]);
        assert_eq!([come(true), come(false)], ["refuse", "retry"]);
        staying.clear();
        assert_eq!(admission.under_way(), 0);
        assert!(matches!(admission.decide(HERE.parse().unwrap(), false), Decision::Accept(_)));
    }

    #[test]
    fn one_source_leaves_room_for_others() {
        let admission = Admission::new(Limits { max: 5, max_per_source: 2, retry_above: 5 });
        let mut staying = Vec::new();
        let mut come = |from, proven| come(&admission, &mut staying, from, proven);
        assert_eq!([HERE; 3].map(|from| come(from, true)), ["accept", "accept", "refuse"]);
        // Nobody is kept out by those who only say that they come from there.
        assert_eq!([come(HERE, false), come("192.0.2.2", true)], ["accept", "accept"]);
        assert_eq!(come("192.0.2.3", true), "accept");
        assert_eq!(come("192.0.2.4", true), "refuse", "there are five");
        staying.clear();
        assert!(lock(&admission.under_way).by_source.is_empty());
    }

    #[test]
    fn over_tcp_the_oldest_gives_way() {
        let admission = Admission::new(Limits { max: 2, max_per_source: 1, retry_above: 0 });
        let come = |from: &str| admission.displace(from.parse().unwrap());
        let (first, mut of_first) = come("192.0.2.1").unwrap();
        assert!(come("192.0.2.1").is_none(), "one from here is enough");
        let (_second, mut of_second) = come("192.0.2.2").unwrap();
        assert!(of_first.try_recv().is_err(), "there was room");
        let third = come("192.0.2.3").unwrap();
        assert!(of_first.try_recv().is_ok() && of_second.try_recv().is_err());
        assert_eq!(admission.under_way(), 3, "the first one is about to leave");
        drop(first);
        drop(third);
        assert_eq!(admission.under_way(), 1);
        assert!(come("192.0.2.1").is_some() && of_second.try_recv().is_err());
    }

    #[test]
    fn a_source_is_an_ipv4_address_or_a_64() {
        let source = |text: &str| Source::of(text.parse().unwrap());
        assert_eq!(source("::ffff:192.0.2.1"), source(HERE));
        assert_ne!(source("192.0.2.2"), source(HERE));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:2"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }
}
