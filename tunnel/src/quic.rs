//! How QUIC is set up for a tunnel.

use std::{sync::Arc, time::Duration};

/// How a connection is kept alive and when it counts as dead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which a ping is sent.
    pub keepalive: Duration,
    /// Silence after which the connection is dead.
    pub idle: Duration,
}

impl Default for Timing {
    /// 20 s and 60 s.
    fn default() -> Self {
        Self { keepalive: Duration::from_secs(20), idle: Duration::from_secs(60) }
    }
}

/// The transport of the device: it pings, and takes no streams but the server's three.
#[must_use]
pub fn client_transport(_timing: &Timing) -> quinn::TransportConfig {
    todo!()
}

/// The transport of the gateway: no pings of its own, that is the device's to pay for.
#[must_use]
pub fn server_transport(_timing: &Timing) -> quinn::TransportConfig {
    todo!()
}

/// QUIC for the device from its TLS: sets ALPN `h3`, switches resumption and early data off.
///
/// # Errors
/// When `tls` has no cipher suite that QUIC needs.
pub fn client_config(
    _tls: rustls::ClientConfig,
    _transport: quinn::TransportConfig,
) -> Result<quinn::ClientConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    todo!()
}

/// QUIC for the gateway from its TLS: sets ALPN `h3`, switches resumption and early data off; migration is on.
///
/// # Errors
/// When `tls` has no cipher suite that QUIC needs.
pub fn server_config(
    _tls: Arc<rustls::ServerConfig>,
    _transport: quinn::TransportConfig,
) -> Result<quinn::ServerConfig, quinn::crypto::rustls::NoInitialCipherSuite> {
    todo!()
}
