//! Which session a packet for an address goes to.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use m2m_protocol::names::Token;

use crate::pool::Addresses;

/// The sessions, by device and by address.
///
/// A device may have several for a while: it opens a new one before it gives the old one up. Packets for it go to the current one: the
/// first, then whichever the device [says](Table::make_current).
#[derive(Debug)]
pub(crate) struct Table<S> {
    max: usize,
    by_device: HashMap<Token, Entry<S>>,
    by_address: HashMap<IpAddr, Arc<S>>,
    sessions: usize,
}

/// Sessions of one device. The oldest goes when there is another one: a device with four uplinks has one for each.
const MOST_SESSIONS: usize = 4;

#[derive(Debug)]
struct Entry<S> {
    addresses: Addresses,
    /// Never empty; oldest first.
    sessions: Vec<Arc<S>>,
    current: Arc<S>,
}

/// What [`Table::insert`] did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Inserted<S> {
    /// Packets for the device go to the new session: it has no other.
    pub(crate) is_current: bool,
    /// A session of the device that is one too many, and the caller's to close.
    pub(crate) evicted: Option<Arc<S>>,
}

impl<S> Table<S> {
    /// An empty table for at most `max` devices.
    pub(crate) fn new(max: usize) -> Self {
        Self { max, by_device: HashMap::new(), by_address: HashMap::new(), sessions: 0 }
    }

    /// Adds a session of a device, which has these addresses in all its sessions.
    ///
    /// # Errors
    /// [`Full`] when there are `max` devices already and this is another one.
    pub(crate) fn insert(
        &mut self,
        device: &Token,
        addresses: Addresses,
        session: Arc<S>,
    ) -> Result<Inserted<S>, Full> {
        if self.is_full_for(device) {
            return Err(Full { max: self.max });
        }
        self.sessions += 1;
        let Some(entry) = self.by_device.get_mut(device) else {
            let entry = Entry { addresses, sessions: vec![Arc::clone(&session)], current: session };
            point(&mut self.by_address, &entry);
            self.by_device.insert(device.clone(), entry);
            return Ok(Inserted { is_current: true, evicted: None });
        };
        let is_full = entry.sessions.len() >= MOST_SESSIONS;
        let oldest = entry.sessions.iter().position(|session| !Arc::ptr_eq(session, &entry.current));
        let evicted = oldest.filter(|_| is_full).map(|oldest| entry.sessions.remove(oldest));
        self.sessions -= usize::from(evicted.is_some());
        entry.sessions.push(session);
        if entry.addresses != addresses {
            for address in entry.addresses.iter() {
                self.by_address.remove(&address);
            }
            entry.addresses = addresses;
            point(&mut self.by_address, entry);
        }
        Ok(Inserted { is_current: false, evicted })
    }

    /// From now on packets for the device go to `session`. Returns the one that they went to, if it is another.
    pub(crate) fn make_current(&mut self, device: &Token, session: &Arc<S>) -> Option<Arc<S>> {
        let entry = self.by_device.get_mut(device)?;
        let is_known = entry.sessions.iter().any(|known| Arc::ptr_eq(known, session));
        if !is_known || Arc::ptr_eq(&entry.current, session) {
            return None;
        }
        let former = std::mem::replace(&mut entry.current, Arc::clone(session));
        point(&mut self.by_address, entry);
        Some(former)
    }

    /// Takes `session` out; whether it was there. If it was the current one, the device's newest takes its place.
    pub(crate) fn remove(&mut self, device: &Token, session: &Arc<S>) -> bool {
        let Some(entry) = self.by_device.get_mut(device) else { return false };
        let Some(index) = entry.sessions.iter().position(|known| Arc::ptr_eq(known, session)) else { return false };
        entry.sessions.remove(index);
        self.sessions -= 1;
        if let Some(newest) = entry.sessions.last() {
            if Arc::ptr_eq(&entry.current, session) {
                entry.current = Arc::clone(newest);
                point(&mut self.by_address, entry);
            }
            return true;
        }
        for address in entry.addresses.iter() {
            self.by_address.remove(&address);
        }
        self.by_device.remove(device);
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
        self.by_device.values().flat_map(|entry| &entry.sessions)
    }

    /// The number of devices that are connected.
    pub(crate) fn devices(&self) -> usize {
        self.by_device.len()
    }

    /// The number of sessions.
    pub(crate) fn len(&self) -> usize {
        self.sessions
    }
}

/// Packets for the addresses of `entry` go to its current session.
fn point<S>(by_address: &mut HashMap<IpAddr, Arc<S>>, entry: &Entry<S>) {
    for address in entry.addresses.iter() {
        by_address.insert(address, Arc::clone(&entry.current));
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
    fn a_new_session_waits_until_the_device_says_so() {
        let mut table = Table::new(4);
        let (old, new) = (Arc::new("old"), Arc::new("new"));
        let first = table.insert(&device(2), addresses(2), Arc::clone(&old)).unwrap();
        assert_eq!(first, Inserted { is_current: true, evicted: None });
        let second = table.insert(&device(2), addresses(2), Arc::clone(&new)).unwrap();
        assert_eq!(second, Inserted { is_current: false, evicted: None });
        assert!(Arc::ptr_eq(table.session_of([10, 0, 0, 2].into()).unwrap(), &old));
        assert!(Arc::ptr_eq(&table.make_current(&device(2), &new).unwrap(), &old));
        assert!(table.make_current(&device(2), &new).is_none());
        assert!(Arc::ptr_eq(table.session_of([10, 0, 0, 2].into()).unwrap(), &new));
        assert!(table.remove(&device(2), &new), "the old one takes its place again");
        assert!(Arc::ptr_eq(table.session_of([10, 0, 0, 2].into()).unwrap(), &old));
        assert!(table.remove(&device(2), &old) && !table.remove(&device(2), &old));
        assert_eq!((table.len(), table.devices(), table.by_address.len()), (0, 0, 0));
    }

    #[test]
    fn the_oldest_but_the_current_one_is_one_too_many() {
        let mut table = Table::new(1);
        let sessions: Vec<_> = (0..6).map(Arc::new).collect();
        let evicted: Vec<_> = sessions
            .iter()
            .map(|session| table.insert(&device(2), addresses(2), Arc::clone(session)).unwrap().evicted)
            .map(|evicted| evicted.map(|evicted| *evicted))
            .collect();
        assert_eq!(evicted, [None, None, None, None, Some(1), Some(2)]);
        assert_eq!(table.len(), MOST_SESSIONS);
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
        /// Against a model: a list of sessions for each device, and which of them is current.
        #[test]
        fn packets_go_to_the_current_session(steps in prop::collection::vec((0..5_u8, 0..3_u8, 0..12_usize), 0..80)) {
            let mut table = Table::new(3);
            let mut model: HashMap<u8, (Vec<Arc<usize>>, Arc<usize>)> = HashMap::new();
            let mut made: Vec<(u8, Arc<usize>)> = Vec::new();
            for (step, (number, action, pick)) in steps.into_iter().enumerate() {
                let picked = made.get(pick).cloned();
                match (action, picked) {
                    (0, _) => {
                        let session = Arc::new(step);
                        let fits = model.len() < 3 || model.contains_key(&number);
                        let outcome = table.insert(&device(number), addresses(number), Arc::clone(&session));
                        prop_assert_eq!(outcome.is_ok(), fits);
                        let Ok(inserted) = outcome else { continue };
                        made.push((number, Arc::clone(&session)));
                        match model.get_mut(&number) {
                            None => drop(model.insert(number, (vec![Arc::clone(&session)], session))),
                            Some((sessions, _)) => {
                                sessions.retain(|one| inserted.evicted.as_ref().is_none_or(|gone| !Arc::ptr_eq(gone, one)));
                                sessions.push(session);
                            }
                        }
                    }
                    (1, Some((number, session))) => {
                        let wanted = model.get_mut(&number).filter(|(sessions, _)| sessions.contains(&session));
                        let former = wanted.map(|(_, current)| std::mem::replace(current, Arc::clone(&session)));
                        prop_assert_eq!(table.make_current(&device(number), &session), former.filter(|former| *former != session));
                    }
                    (_, Some((number, session))) => {
                        let known = model.get(&number).is_some_and(|(sessions, _)| sessions.contains(&session));
                        prop_assert_eq!(table.remove(&device(number), &session), known);
                        if let Some((sessions, current)) = model.get_mut(&number) {
                            sessions.retain(|one| *one != session);
                            match sessions.last() {
                                None => drop(model.remove(&number)),
                                Some(newest) if *current == session => *current = Arc::clone(newest),
                                Some(_) => {}
                            }
                        }
                    }
                    (_, None) => {}
                }
                prop_assert_eq!(table.devices(), model.len());
                prop_assert_eq!(table.len(), model.values().map(|(sessions, _)| sessions.len()).sum::<usize>());
                prop_assert_eq!(table.by_address.len(), model.len() * 2);
                for number in 0..5 {
                    let current = model.get(&number).map(|(sessions, current)| {
                        assert!(sessions.len() <= MOST_SESSIONS);
                        current
                    });
                    for address in addresses(number).iter() {
                        prop_assert_eq!(table.session_of(address), current);
                    }
                }
            }
        }
    }
}
