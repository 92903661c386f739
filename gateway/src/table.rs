//! Which session a packet for an address goes to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use m2m_protocol::names::Token;

use crate::pool::Addresses;

/// The sessions, by device and by address; at most one per device.
#[derive(Debug)]
pub(crate) struct Table<S> {
    max: usize,
    by_device: HashMap<Token, Entry<S>>,
    by_address: HashMap<IpAddr, Arc<S>>,
}

#[derive(Debug)]
struct Entry<S> {
    addresses: Addresses,
    session: Arc<S>,
}

impl<S> Table<S> {
    /// An empty table for at most `max` devices.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, by_device: HashMap::new(), by_address: HashMap::new() }
    }

    /// From now on packets for `addresses` go to `session`. Returns the session that it replaces, which still works
    /// and is the caller's to close.
    ///
    /// # Errors
    /// [`Full`] when there are `max` devices already and this is another one.
    pub(crate) fn insert(
        &mut self,
        device: &Token,
        addresses: Addresses,
        session: Arc<S>,
    ) -> Result<Option<Arc<S>>, Full> {
        if self.is_full_for(device) {
            return Err(Full { max: self.max });
        }
        let former = self.by_device.insert(device.clone(), Entry { addresses, session: Arc::clone(&session) });
        for address in former.iter().flat_map(|entry| entry.addresses.iter()) {
            self.by_address.remove(&address);
        }
        for address in addresses.iter() {
            self.by_address.insert(address, Arc::clone(&session));
        }
        Ok(former.map(|entry| entry.session))
    }

    /// Takes `session` out, unless another one has replaced it; whether it was there.
    pub(crate) fn remove(&mut self, device: &Token, session: &Arc<S>) -> bool {
        if !self.by_device.get(device).is_some_and(|entry| Arc::ptr_eq(&entry.session, session)) {
            return false;
        }
        if let Some(entry) = self.by_device.remove(device) {
            for address in entry.addresses.iter() {
                self.by_address.remove(&address);
            }
        }
        true
    }

    /// The session that packets for `address` go to.
    pub(crate) fn session_of(&self, address: IpAddr) -> Option<&Arc<S>> {
        self.by_address.get(&address)
    }

    /// Whether there is no room for `device`.
    pub(crate) fn is_full_for(&self, device: &Token) -> bool {
        self.by_device.len() >= self.max && !self.by_device.contains_key(device)
    }

    /// All sessions.
    pub(crate) fn sessions(&self) -> impl Iterator<Item = &Arc<S>> {
        self.by_device.values().map(|entry| &entry.session)
    }

    /// The number of sessions.
    pub(crate) fn len(&self) -> usize {
        self.by_device.len()
    }
}

/// There are as many sessions as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the gateway is full: {max} devices are connected (limits.max_sessions)")]
pub(crate) struct Full {
    max: usize,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn addresses(number: u8) -> Addresses {
        Addresses {
            ipv4: Some([10, 0, 0, number].into()),
            ipv6: Some(std::net::Ipv6Addr::from_bits(0xfd00 << 112 | u128::from(number))),
        }
    }

    fn device(number: u8) -> Token {
        format!("dev-{number}").parse().unwrap()
    }

    #[test]
    fn the_second_session_of_a_device_replaces_the_first() {
        let mut table = Table::new(4);
        let (old, new) = (Arc::new("old"), Arc::new("new"));
        assert_eq!(table.insert(&device(2), addresses(2), Arc::clone(&old)).unwrap(), None);
        let replaced = table.insert(&device(2), addresses(2), Arc::clone(&new)).unwrap();
        assert!(Arc::ptr_eq(&replaced.unwrap(), &old));
        assert!(!table.remove(&device(2), &old), "the end of the old session leaves the new one alone");
        assert!(Arc::ptr_eq(table.session_of([10, 0, 0, 2].into()).unwrap(), &new));
        assert!(table.remove(&device(2), &new));
        assert!(table.session_of([10, 0, 0, 2].into()).is_none());
        assert_eq!(table.by_address.len(), 0);
    }

    #[test]
    fn a_full_table_takes_only_devices_that_it_has() {
        let mut table = Table::new(1);
        table.insert(&device(2), addresses(2), Arc::new(())).unwrap();
        assert_eq!(table.insert(&device(3), addresses(3), Arc::new(())), Err(Full { max: 1 }));
        assert!(table.session_of([10, 0, 0, 3].into()).is_none());
        assert!(table.insert(&device(2), addresses(2), Arc::new(())).is_ok());
    }

    proptest! {
        /// Against a model: the last session inserted and not removed is the one that gets the packets.
        #[test]
        fn packets_go_to_the_latest_session(steps in prop::collection::vec((0..5_u8, any::<bool>(), 0..8_usize), 0..60)) {
            let mut table = Table::new(3);
            let mut model: HashMap<u8, Arc<usize>> = HashMap::new();
            let mut made: Vec<(u8, Arc<usize>)> = Vec::new();
            for (step, (number, insert, pick)) in steps.into_iter().enumerate() {
                if insert {
                    let session = Arc::new(step);
                    let fits = model.len() < 3 || model.contains_key(&number);
                    let outcome = table.insert(&device(number), addresses(number), Arc::clone(&session));
                    prop_assert_eq!(outcome.is_ok(), fits);
                    if fits {
                        prop_assert_eq!(outcome.unwrap(), model.insert(number, Arc::clone(&session)));
                        made.push((number, session));
                    }
                } else if let Some((number, session)) = made.get(pick) {
                    let current = model.get(number).is_some_and(|latest| Arc::ptr_eq(latest, session));
                    prop_assert_eq!(table.remove(&device(*number), session), current);
                    if current {
                        model.remove(number);
                    }
                }
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.by_address.len(), model.len() * 2);
                for number in 0..5 {
                    for address in addresses(number).iter() {
                        prop_assert_eq!(table.session_of(address), model.get(&number));
                    }
                }
            }
        }
    }
}
