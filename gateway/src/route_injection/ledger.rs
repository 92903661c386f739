//! Which routes are wanted and which the kernel has, and what is to be done about the difference. No I/O.

use std::collections::{BTreeSet, HashMap};

use ipnet::IpNet;

/// A route of the gateway's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    pub(super) metric: u32,
    pub(super) target: Target,
}

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Target {
    /// To the tunnel interface.
    Tunnel,
    /// Unreachable.
    Nowhere,
}

/// At most one wanted route for each destination; the kernel may have several, of different metrics.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    wanted: HashMap<IpNet, Route>,
    installed: HashMap<IpNet, Vec<Route>>,
    /// The destinations at which the two may differ.
    open: BTreeSet<IpNet>,
}

impl Ledger {
    /// This route instead of any other to its destination.
    pub(super) fn want(&mut self, route: Route) {
        self.wanted.insert(route.destination, route);
        self.open.insert(route.destination);
    }

    /// No route to `destination`.
    pub(super) fn unwant(&mut self, destination: IpNet) {
        self.wanted.remove(&destination);
        self.open.insert(destination);
    }

    /// The kernel has these routes and no others.
    pub(super) fn found(&mut self, routes: Vec<Route>) {
        self.installed.clear();
        for route in routes {
            self.added(route);
        }
        self.open.extend(self.installed.keys().chain(self.wanted.keys()));
    }

    /// At most `most` destinations to see to: first what is [`missing`](Self::missing) there, then what is [`surplus`](Self::surplus). They
    /// come again when something else is wanted there, and with the next [`found`](Self::found).
    pub(super) fn take(&mut self, most: usize) -> Vec<IpNet> {
        std::iter::from_fn(|| self.open.pop_first()).take(most).collect()
    }

    /// The routes to `destinations` that the kernel has to get.
    pub(super) fn missing(&self, destinations: &[IpNet]) -> Vec<Route> {
        let wanted = destinations.iter().filter_map(|destination| self.wanted.get(destination));
        wanted.filter(|route| !self.has(route)).copied().collect()
    }

    /// The routes to `destinations` that the kernel has to lose. Where a route is wanted and not there yet, an old one stays.
    pub(super) fn surplus(&self, destinations: &[IpNet]) -> Vec<Route> {
        let installed = destinations.iter().filter_map(|destination| self.installed.get(destination)).flatten();
        let is_surplus = |route: &&Route| {
            self.wanted.get(&route.destination).is_none_or(|wanted| wanted != *route && self.has(wanted))
        };
        installed.filter(is_surplus).copied().collect()
    }

    /// The kernel has it now.
    pub(super) fn added(&mut self, route: Route) {
        let routes = self.installed.entry(route.destination).or_insert_with(|| Vec::with_capacity(1));
        if !routes.contains(&route) {
            routes.push(route);
        }
    }

    /// The kernel does not have it any more.
    pub(super) fn removed(&mut self, route: Route) {
        let Some(routes) = self.installed.get_mut(&route.destination) else { return };
        routes.retain(|other| *other != route);
        if routes.is_empty() {
            self.installed.remove(&route.destination);
        }
    }

    /// Whether the kernel has what is wanted, as far as is known.
    #[cfg(test)]
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
            && self.wanted.len() == self.installed.len()
            && self.wanted.values().all(|route| self.has(route))
    }

    fn has(&self, route: &Route) -> bool {
        self.installed.get(&route.destination).is_some_and(|routes| routes.contains(route))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn destination(number: u8) -> IpNet {
        IpNet::from(std::net::IpAddr::from([10, 99, 0, number]))
    }

    fn route(number: u8, metric: u32) -> Route {
        let target = if number == 0 { Target::Nowhere } else { Target::Tunnel };
        Route { destination: destination(number), metric, target }
    }

    #[test]
    fn a_newer_session_has_its_route_before_the_older_loses_it() {
        let mut ledger = Ledger::default();
        let (old, new) = (route(1, 9), route(1, 8));
        let here = [destination(1)];
        ledger.want(old);
        assert_eq!((ledger.missing(&here), ledger.surplus(&here)), (vec![old], vec![]));
        ledger.added(old);
        ledger.want(new);
        assert_eq!((ledger.missing(&here), ledger.surplus(&here)), (vec![new], vec![]));
        ledger.added(new);
        assert_eq!((ledger.missing(&here), ledger.surplus(&here)), (vec![], vec![old]));
        ledger.removed(old);
        assert_eq!((ledger.missing(&here), ledger.surplus(&here)), (vec![], vec![]));
        assert_eq!(ledger.take(9), here);
        assert!(ledger.take(9).is_empty());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Join(u8, u32),
        Leave(u8),
        /// Adds, then removals, each refused by the kernel where a bit says so.
        Work(usize, u16),
        /// Somebody else takes a route away.
        Lose(usize),
        Look,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_u8, 1..4_u32).prop_map(|(number, metric)| Step::Join(number, metric)),
            3 => (0..6_u8).prop_map(Step::Leave),
            5 => (1..8_usize, any::<u16>()).prop_map(|(most, refused)| Step::Work(most, refused)),
            1 => (0..10_usize).prop_map(Step::Lose),
            2 => Just(Step::Look),
        ]
    }

    /// A kernel that has what it was told, and refuses when a bit of `refused` says so; then it is asked what it has, as in
    /// `RouteInjection::keep`.
    fn work(ledger: &mut Ledger, kernel: &mut BTreeSet<Route>, most: usize, refused: u16) {
        let mut failed = false;
        let destinations = ledger.take(most);
        assert!(destinations.len() <= most);
        for (place, route) in ledger.missing(&destinations).into_iter().enumerate() {
            if refused >> place & 1 == 1 {
                failed = true;
                continue;
            }
            assert!(kernel.insert(route), "{route:?} was there");
            ledger.added(route);
        }
        for (place, route) in ledger.surplus(&destinations).into_iter().enumerate() {
            if refused >> (place % 8 + 8) & 1 == 1 {
                failed = true;
                continue;
            }
            kernel.remove(&route);
            ledger.removed(route);
        }
        if failed {
            ledger.found(kernel.iter().copied().collect());
        }
    }

    proptest! {
        #[test]
        fn the_kernel_ends_up_with_what_is_wanted_and_nobody_wanted_is_cut_off(
            left_behind in prop::collection::btree_set((0..6_u8, 1..4_u32), 0..6),
            steps in prop::collection::vec(step(), 0..60),
        ) {
            let mut kernel: BTreeSet<Route> = left_behind.into_iter().map(|(number, metric)| route(number, metric)).collect();
            let mut model = BTreeMap::<u8, Route>::new();
            let mut ledger = Ledger::default();
            ledger.found(kernel.iter().copied().collect());
            let mut lost = BTreeSet::new();
            for step in steps {
                let reached: BTreeSet<IpNet> = kernel.iter().map(|route| route.destination).collect();
                match step {
                    Step::Join(number, metric) => {
                        model.insert(number, route(number, metric));
                        ledger.want(route(number, metric));
                    }
                    Step::Leave(number) => {
                        model.remove(&number);
                        ledger.unwant(destination(number));
                    }
                    Step::Work(most, refused) => {
                        work(&mut ledger, &mut kernel, most, if lost.is_empty() { refused } else { 0 });
                        for wanted in model.values().filter(|route| reached.contains(&route.destination)) {
                            let kept = kernel.iter().any(|route| route.destination == wanted.destination);
                            prop_assert!(kept || lost.contains(&wanted.destination), "{wanted:?}");
                        }
                    }
                    Step::Lose(place) => {
                        if let Some(route) = kernel.iter().nth(place).copied() {
                            kernel.remove(&route);
                            lost.insert(route.destination);
                        }
                    }
                    Step::Look => {
                        ledger.found(kernel.iter().copied().collect());
                        lost.clear();
                    }
                }
            }
            ledger.found(kernel.iter().copied().collect());
            while !ledger.is_settled() {
                work(&mut ledger, &mut kernel, 2, 0);
            }
            prop_assert!(kernel.iter().eq(model.values()), "{kernel:?} {model:?}");
        }
    }
}
