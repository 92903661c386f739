//! What is counted, and its form for Prometheus.

use std::sync::atomic::AtomicU64;

use m2m_protocol::names::Token;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use crate::policy::Refusal;

/// All metrics of the gateway.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    /// Sessions that packets can go to.
    pub(crate) sessions: Gauge,
    /// Handshakes under way.
    pub(crate) handshakes_under_way: Gauge,
    /// Devices that have addresses.
    pub(crate) addresses_assigned: Gauge,
    /// Packets for addresses of the pool whose device is not connected.
    pub(crate) undeliverable: Counter,
    not_taken: Counter,
    /// Seconds since 1970 at which the revocation list in use ends; 0 without one.
    pub(crate) revocation_next_update: Gauge,
    /// Certificates that the revocation list in use names.
    pub(crate) revoked_certificates: Gauge,
    connections: Family<Outcome, Counter>,
    revocation_refreshes: Family<Outcome, Counter>,
    packets: Family<Direction, Counter>,
    bytes: Family<Direction, Counter>,
    dropped: Family<Dropped, Counter>,
}

impl Metrics {
    /// All at zero. `capacity` is the number of devices for which there are addresses.
    pub(crate) fn new(capacity: u32) -> Self {
        let mut registry = Registry::with_prefix("m2m_gateway");
        let metrics = Self {
            sessions: Gauge::default(),
            handshakes_under_way: Gauge::default(),
            addresses_assigned: Gauge::default(),
            undeliverable: Counter::default(),
            not_taken: Counter::default(),
            revocation_next_update: Gauge::default(),
            revoked_certificates: Gauge::default(),
            connections: Family::default(),
            revocation_refreshes: Family::default(),
            packets: Family::default(),
            bytes: Family::default(),
            dropped: Family::default(),
            registry: Registry::default(),
        };
        let addresses_capacity: Gauge = Gauge::default();
        addresses_capacity.set(capacity.into());

        registry.register("sessions", "Devices that are connected", metrics.sessions.clone());
        registry.register("handshakes", "Handshakes that are under way", metrics.handshakes_under_way.clone());
        registry.register("connections", "Connections by what became of them", metrics.connections.clone());
        registry.register("addresses_assigned", "Devices that have addresses", metrics.addresses_assigned.clone());
        registry.register("addresses_capacity", "Devices for which there are addresses", addresses_capacity);
        registry.register(
            "undeliverable_packets",
            "Packets for devices that are not connected",
            metrics.undeliverable.clone(),
        );
        registry.register(
            "interface_dropped_packets",
            "Packets of devices that the tunnel interface did not take",
            metrics.not_taken.clone(),
        );
        registry.register_with_unit(
            "revocation_list_next_update_timestamp",
            "When the revocation list in use ends, since 1970; 0 without one",
            Unit::Seconds,
            metrics.revocation_next_update.clone(),
        );
        registry.register(
            "revocation_list_certificates",
            "Certificates that the revocation list in use names",
            metrics.revoked_certificates.clone(),
        );
        registry.register(
            "revocation_list_refreshes",
            "Attempts to read the revocation list",
            metrics.revocation_refreshes.clone(),
        );
        registry.register("device_packets", "IP packets that were forwarded", metrics.packets.clone());
        registry.register_with_unit(
            "device_traffic",
            "Bytes of the IP packets that were forwarded",
            Unit::Bytes,
            metrics.bytes.clone(),
        );
        registry.register("device_dropped_packets", "IP packets that were dropped", metrics.dropped.clone());
        Self { registry, ..metrics }
    }

    /// The counters of `device`, which go on from where they were when it was last connected.
    pub(crate) fn device(&self, device: &Token) -> DeviceCounters {
        // Each in a call of its own: a family is locked while the counter that it lent is looked at.
        let forwarded = |family: &Family<Direction, Counter>, direction| {
            family.get_or_create_owned(&Direction { device: device.to_string(), direction })
        };
        let drop = |reason| self.dropped.get_or_create_owned(&Dropped { device: device.to_string(), reason });
        DeviceCounters {
            received_packets: forwarded(&self.packets, FROM_DEVICE),
            received_bytes: forwarded(&self.bytes, FROM_DEVICE),
            sent_packets: forwarded(&self.packets, TO_DEVICE),
            sent_bytes: forwarded(&self.bytes, TO_DEVICE),
            malformed: drop("malformed"),
            spoofed: drop("spoofed"),
            other_device: drop("other_device"),
            not_routed: drop("not_routed"),
            out_of_scope: drop("out_of_scope"),
            too_large: drop("too_large"),
        }
    }

    /// Counts packets of devices that the tunnel interface did not take.
    pub(crate) fn not_taken(&self, packets: usize) {
        self.not_taken.inc_by(packets as u64);
    }

    /// Counts what became of a connection.
    pub(crate) fn connection(&self, outcome: ConnectionOutcome) {
        self.connections.get_or_create(&Outcome { outcome: outcome.label() }).inc();
    }

    /// Counts an attempt to read the revocation list.
    pub(crate) fn revocation_refresh(&self, good: bool) {
        self.revocation_refreshes.get_or_create(&Outcome { outcome: if good { "good" } else { "failed" } }).inc();
    }

    /// All metrics as OpenMetrics text.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        // Writing to a String does not fail.
        let _ = text::encode(&mut text, &self.registry);
        text
    }
}

/// The media type of [`Metrics::to_text`].
pub(crate) const MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

const FROM_DEVICE: &str = "from_device";
const TO_DEVICE: &str = "to_device";

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ConnectionOutcome {
    /// The device has its tunnel.
    Accepted,
    /// The client was asked to prove its address.
    Retry,
    /// Too many handshakes, or stopping.
    RefusedBusy,
    /// There is no revocation list that counts.
    RefusedNoRevocationList,
    /// TLS or QUIC failed; a wrong or revoked certificate is here.
    HandshakeFailed,
    /// It took too long.
    TimedOut,
    /// No tunnel was asked for, or not as it must be.
    BadRequest,
    /// The certificate is good and no device's.
    NotADevice,
    /// No address, no room, or they could not be kept.
    NoRoom,
}

impl ConnectionOutcome {
    fn label(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Retry => "retry",
            Self::RefusedBusy => "refused_busy",
            Self::RefusedNoRevocationList => "refused_no_revocation_list",
            Self::HandshakeFailed => "handshake_failed",
            Self::TimedOut => "timed_out",
            Self::BadRequest => "bad_request",
            Self::NotADevice => "not_a_device",
            Self::NoRoom => "no_room",
        }
    }
}

/// The counters of one device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceCounters {
    received_packets: Counter<u64, AtomicU64>,
    received_bytes: Counter<u64, AtomicU64>,
    sent_packets: Counter<u64, AtomicU64>,
    sent_bytes: Counter<u64, AtomicU64>,
    malformed: Counter<u64, AtomicU64>,
    spoofed: Counter<u64, AtomicU64>,
    other_device: Counter<u64, AtomicU64>,
    not_routed: Counter<u64, AtomicU64>,
    out_of_scope: Counter<u64, AtomicU64>,
    too_large: Counter<u64, AtomicU64>,
}

impl DeviceCounters {
    /// Counts a packet from the device that was forwarded.
    pub(crate) fn received(&self, bytes: usize) {
        self.received_packets.inc();
        self.received_bytes.inc_by(bytes as u64);
    }

    /// Counts a packet to the device that was forwarded.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent_packets.inc();
        self.sent_bytes.inc_by(bytes as u64);
    }

    /// Counts a packet of the device, or for it, that is not let through.
    pub(crate) fn refused(&self, refusal: Refusal) {
        match refusal {
            Refusal::Spoofed => &self.spoofed,
            Refusal::OtherDevice => &self.other_device,
            Refusal::NotRouted => &self.not_routed,
            Refusal::OutOfScope => &self.out_of_scope,
        }
        .inc();
    }

    /// Counts something of the device that is no IP packet.
    pub(crate) fn malformed(&self) {
        self.malformed.inc();
    }

    /// Counts a packet to the device that the path does not carry.
    pub(crate) fn too_large(&self) {
        self.too_large.inc();
    }

    /// Their values now.
    pub(crate) fn values(&self) -> DeviceCounts {
        DeviceCounts {
            received_packets: self.received_packets.get(),
            received_bytes: self.received_bytes.get(),
            sent_packets: self.sent_packets.get(),
            sent_bytes: self.sent_bytes.get(),
            malformed: self.malformed.get(),
            spoofed: self.spoofed.get(),
            other_device: self.other_device.get(),
            not_routed: self.not_routed.get(),
            out_of_scope: self.out_of_scope.get(),
            too_large: self.too_large.get(),
        }
    }
}

/// The values of [`DeviceCounters`], since the gateway started. Received is from the device, sent is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct DeviceCounts {
    received_packets: u64,
    received_bytes: u64,
    sent_packets: u64,
    sent_bytes: u64,
    malformed: u64,
    spoofed: u64,
    other_device: u64,
    not_routed: u64,
    out_of_scope: u64,
    too_large: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Direction {
    device: String,
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Dropped {
    device: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn counters_go_on_when_a_device_comes_back() {
        let metrics = Metrics::new(100);
        let device = "dev-1".parse().unwrap();
        metrics.device(&device).received(1280);
        metrics.device(&device).refused(Refusal::Spoofed);
        metrics.connection(ConnectionOutcome::Accepted);
        let text = metrics.to_text();
        for line in [
            "m2m_gateway_device_packets_total{device=\"dev-1\",direction=\"from_device\"} 1",
            "m2m_gateway_device_traffic_bytes_total{device=\"dev-1\",direction=\"from_device\"} 1280",
            "m2m_gateway_device_dropped_packets_total{device=\"dev-1\",reason=\"spoofed\"} 1",
            "m2m_gateway_connections_total{outcome=\"accepted\"} 1",
            "m2m_gateway_addresses_capacity 100",
            "m2m_gateway_sessions 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
        assert_eq!(metrics.device(&device).values().spoofed, 1);
    }
}
