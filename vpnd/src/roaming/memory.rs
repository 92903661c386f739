//! What is remembered of each network, from one visit to the next and over a restart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Transport;
use super::keepalive::Keepalive;

/// More networks than this are not kept: the one that was not seen for longest goes.
const MOST: usize = 64;

/// What is known of networks, by [`Uplink::network`](super::Uplink::network). To be stored as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    networks: BTreeMap<String, Network>,
    /// Counts visits.
    visits: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Network {
    #[serde(default)]
    udp: Udp,
    /// Of UDP and TCP, whose bindings live for different times.
    #[serde(default)]
    http3: Keepalive,
    #[serde(default)]
    http2: Keepalive,
    last_visit: u64,
}

/// Whether UDP gets through to gateways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Udp {
    /// Nothing speaks against it.
    #[default]
    Unknown,
    /// It did, the last time.
    Works,
    /// TCP did, UDP did not, the last time.
    Dead,
}

impl Memory {
    /// Whether UDP got through there.
    #[must_use]
    pub fn udp(&self, network: &str) -> Udp {
        self.networks.get(network).map_or(Udp::Unknown, |network| network.udp)
    }

    /// The keepalive of connections over that network.
    #[must_use]
    pub fn keepalive(&self, network: &str, transport: Transport) -> Keepalive {
        self.networks.get(network).map_or_else(Keepalive::default, |network| match transport {
            Transport::Http3 => network.http3.clone(),
            Transport::Http2 => network.http2.clone(),
        })
    }

    pub(super) fn set_udp(&mut self, network: &str, udp: Udp) {
        self.visit(network).udp = udp;
    }

    pub(super) fn learn(&mut self, network: &str, transport: Transport, lesson: impl FnOnce(&mut Keepalive)) {
        let network = self.visit(network);
        lesson(match transport {
            Transport::Http3 => &mut network.http3,
            Transport::Http2 => &mut network.http2,
        });
    }

    fn visit(&mut self, name: &str) -> &mut Network {
        self.visits += 1;
        if !self.networks.contains_key(name) && self.networks.len() >= MOST {
            let oldest = self.networks.iter().min_by_key(|(_, network)| network.last_visit);
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.networks.remove(&oldest);
            }
        }
        let network = self.networks.entry(name.to_owned()).or_default();
        network.last_visit = self.visits;
        network
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn networks_are_kept_apart_and_as_text() {
        let mut memory = Memory::default();
        memory.set_udp("eth0 192.0.2.1", Udp::Dead);
        memory.learn("wwan0", Transport::Http3, |keepalive| keepalive.answered(Duration::from_secs(60)));
        let text = serde_json::to_string(&memory).unwrap();
        let again: Memory = serde_json::from_str(&text).unwrap();
        assert_eq!(again, memory);
        assert_eq!((again.udp("eth0 192.0.2.1"), again.udp("wwan0")), (Udp::Dead, Udp::Unknown));
        assert_eq!(again.keepalive("wwan0", Transport::Http3).interval(), Duration::from_secs(90));
        assert_eq!(again.keepalive("wwan0", Transport::Http2), Keepalive::default());
    }

    #[test]
    fn the_network_that_was_not_seen_for_longest_is_forgotten() {
        let mut memory = Memory::default();
        for number in 0..MOST {
            memory.set_udp(&format!("wlan0 {number}"), Udp::Dead);
        }
        memory.set_udp("wlan0 0", Udp::Works);
        memory.set_udp("wlan0 new", Udp::Works);
        assert_eq!(memory.networks.len(), MOST);
        assert_eq!((memory.udp("wlan0 0"), memory.udp("wlan0 1")), (Udp::Works, Udp::Unknown));
    }
}
