//! How many connections each network has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, PoisonError};

use crate::http::Network;

/// What one network may have in any case: behind one address there may be a whole site.
const AT_LEAST: usize = 16;

/// The networks that have connections.
#[derive(Debug)]
pub(super) struct Crowd {
    most: usize,
    present: Mutex<HashMap<Network, usize>>,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    network: Network,
}

impl Crowd {
    /// No network may have more than a quarter of the `slots`.
    pub(super) fn of(slots: NonZeroU16) -> Arc<Self> {
        let most = usize::from(slots.get() / 4).max(AT_LEAST);
        Arc::new(Self { most, present: Mutex::default() })
    }

    /// A place for one more connection of `network`, if there is any.
    pub(super) fn admit(self: &Arc<Self>, network: Network) -> Option<Place> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let count = present.entry(network).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Place { crowd: Arc::clone(self), network })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut present = self.crowd.present.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = present.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn one_network_cannot_take_all_places_and_gets_them_back() {
        let network = |text: &str| Network::from(text.parse::<IpAddr>().unwrap());
        let crowd = Crowd::of(NonZeroU16::new(128).unwrap());
        let mut places: Vec<_> = (0..32).map(|_| crowd.admit(network("192.0.2.1")).unwrap()).collect();
        assert!(crowd.admit(network("192.0.2.1")).is_none());
        assert!(crowd.admit(network("192.0.2.2")).is_some());
        places.pop();
        places.push(crowd.admit(network("192.0.2.1")).unwrap());
        drop(places);
        assert!(crowd.present.lock().unwrap().is_empty());
    }
}
