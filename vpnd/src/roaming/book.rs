//! The uplinks that are there or were there lately, and how they behaved.

use std::net::IpAddr;
use std::time::Instant;

use super::recent::{Recent, Retry};
use super::timing::{self, step};
use super::uplink::{Uplink, UplinkId};

/// All known uplinks.
#[derive(Debug, Default)]
pub(super) struct Book {
    entries: Vec<Entry>,
}

/// One of them, known by its name.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) uplink: Uplink,
    pub(super) is_present: bool,
    /// Since when it is as it is: there without a loss, or gone.
    pub(super) since: Instant,
    /// When to try it again because it is better than the active one.
    pub(super) retry: Retry,
    /// When to try HTTP/3 again while HTTP/2 is active over it.
    pub(super) http3_retry: Retry,
    /// When to try the preferred gateway again while another one is active over it.
    pub(super) gateway_retry: Retry,
    losses: Recent,
}

/// What happened to one uplink.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is not there any more.
    Gone(UplinkId),
    /// It is there, for the first time or again; formerly with this other index.
    Came { id: UplinkId, formerly: UplinkId },
    /// It has not all of its former addresses, or is in another network.
    Moved(UplinkId),
    /// It has more addresses than before.
    Grew(UplinkId),
}

impl Book {
    /// Takes in what there is now.
    pub(super) fn update(&mut self, uplinks: Vec<Uplink>, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for entry in &mut self.entries {
            if entry.is_present && !uplinks.iter().any(|uplink| uplink.name == entry.uplink.name) {
                entry.is_present = false;
                entry.lost(now);
                changes.push(Change::Gone(entry.uplink.id));
            }
        }
        for uplink in uplinks {
            match self.entries.iter_mut().find(|entry| entry.uplink.name == uplink.name) {
                Some(entry) => changes.extend(entry.update(uplink, now)),
                None => {
                    changes.push(Change::Came { id: uplink.id, formerly: uplink.id });
                    self.entries.push(Entry::new(uplink, now));
                }
            }
        }
        let is_recent = |entry: &Entry| now.saturating_duration_since(entry.since) < 2 * timing::LOSSES_COUNT;
        self.entries.retain(|entry| entry.is_present || is_recent(entry));
        changes
    }

    /// The uplinks that are there, the best first.
    pub(super) fn present(&self) -> Vec<&Entry> {
        let mut present: Vec<&Entry> = self.entries.iter().filter(|entry| entry.is_present).collect();
        present.sort_by_key(|entry| entry.uplink.rank());
        present
    }

    pub(super) fn get(&self, id: UplinkId) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.uplink.id == id)
    }

    pub(super) fn get_mut(&mut self, id: UplinkId) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.uplink.id == id)
    }

    pub(super) fn is_present(&self, id: UplinkId) -> bool {
        self.get(id).is_some_and(|entry| entry.is_present)
    }

    /// The network that this uplink is in or was in; empty for one that is not known any more.
    pub(super) fn network(&self, id: UplinkId) -> &str {
        self.get(id).map_or("", |entry| &entry.uplink.network)
    }
}

impl Entry {
    fn new(uplink: Uplink, now: Instant) -> Self {
        let choose = |usual, metered| Retry::new(if uplink.metered { metered } else { usual });
        Self {
            http3_retry: choose(timing::HTTP3_AGAIN, timing::HTTP3_AGAIN_METERED),
            gateway_retry: choose(timing::GATEWAY_AGAIN, timing::GATEWAY_AGAIN_METERED),
            uplink,
            is_present: true,
            since: now,
            retry: Retry::new(timing::UPLINK_AGAIN),
            losses: Recent::new(timing::LOSSES_COUNT),
        }
    }

    fn update(&mut self, uplink: Uplink, now: Instant) -> Option<Change> {
        let former = std::mem::replace(&mut self.uplink, uplink);
        let lacks = |address: &IpAddr| !self.uplink.addresses.contains(address);
        let change = if !self.is_present || former.id != self.uplink.id {
            self.is_present = true;
            self.since = now;
            Some(Change::Came { id: self.uplink.id, formerly: former.id })
        } else if former.network != self.uplink.network || former.addresses.iter().any(lacks) {
            Some(Change::Moved(self.uplink.id))
        } else if former.addresses.len() < self.uplink.addresses.len() {
            Some(Change::Grew(self.uplink.id))
        } else {
            None
        };
        if change.is_some() {
            self.retry.reset();
            self.http3_retry.reset();
            self.gateway_retry.reset();
        }
        change
    }

    /// The uplink let the tunnel down.
    pub(super) fn lost(&mut self, now: Instant) {
        self.losses.happened(now);
        self.since = now;
    }

    /// Losses that count.
    pub(super) fn losses(&self, now: Instant) -> usize {
        self.losses.count(now)
    }

    /// When it may be used in place of one that works, if nothing more happens to it.
    pub(super) fn trusted_from(&self) -> Instant {
        self.since + step(&timing::HOLD_DOWN, self.losses(self.since))
    }

    /// When it may be used where nothing works, if nothing more happens to it.
    pub(super) fn settled_at(&self) -> Instant {
        self.since + step(&timing::SETTLE, self.losses(self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uplink(id: u32, name: &str, addresses: &[[u8; 4]]) -> Uplink {
        Uplink {
            id: UplinkId(id),
            name: name.to_owned(),
            priority: 0,
            metered: false,
            metric: 0,
            addresses: addresses.iter().map(|address| IpAddr::from(*address)).collect(),
            network: name.to_owned(),
        }
    }

    #[test]
    fn changes_are_told_apart() {
        let now = Instant::now();
        let (first, second) = ([192, 0, 2, 7], [192, 0, 2, 8]);
        let mut book = Book::default();
        let mut update = |uplinks: &[Uplink]| book.update(uplinks.to_vec(), now);
        let came = |id, formerly| vec![Change::Came { id: UplinkId(id), formerly: UplinkId(formerly) }];
        assert_eq!(update(&[uplink(2, "eth0", &[first])]), came(2, 2));
        assert_eq!(update(&[uplink(2, "eth0", &[first])]), []);
        assert_eq!(update(&[uplink(2, "eth0", &[first, second])]), [Change::Grew(UplinkId(2))]);
        assert_eq!(update(&[uplink(2, "eth0", &[second])]), [Change::Moved(UplinkId(2))]);
        assert_eq!(update(&[]), [Change::Gone(UplinkId(2))]);
        assert_eq!(update(&[]), []);
        // A modem that was connected anew has another number.
        assert_eq!(update(&[uplink(7, "eth0", &[second])]), came(7, 2));
    }

    #[test]
    fn what_comes_and_goes_is_waited_for_longer_each_time() {
        let mut now = Instant::now();
        let mut book = Book::default();
        let mut waits = Vec::new();
        for _ in 0..10 {
            book.update(vec![uplink(2, "eth0", &[])], now);
            let entry = &book.entries[0];
            waits.push(entry.trusted_from().saturating_duration_since(now).as_secs());
            now += std::time::Duration::from_secs(1);
            book.update(Vec::new(), now);
        }
        assert_eq!(waits, [0, 3, 10, 30, 60, 120, 240, 300, 300, 300]);
        now += timing::LOSSES_COUNT;
        book.update(vec![uplink(2, "eth0", &[])], now);
        assert_eq!(book.entries[0].trusted_from(), now);
        now += std::time::Duration::from_secs(1);
        book.update(Vec::new(), now);
        now += 3 * timing::LOSSES_COUNT;
        book.update(Vec::new(), now);
        assert!(book.entries.is_empty());
    }
}
