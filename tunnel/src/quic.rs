//! How QUIC is set up for a tunnel.

use std::{sync::Arc, time::Duration};

use quinn::{
    IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};

/// The ALPN protocol of HTTP/3.
pub const ALPN: &[u8] = b"h3";

/// The UDP payload in bytes that a connection begins with: an inner packet of 1280 bytes fits with the longest
/// connection ids and stream ids (RFC 9484 §7.1 counts 1331).
pub const INITIAL_MTU: u16 = 1350;

/// Bytes of packets that wait for the congestion window. More would be delay on a slow link, and no more throughput.
const SEND_BUFFER: usize = 128 * 1024;

/// Bytes of packets that came and were not taken yet, some bursts of the receiving side's offload.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Streams carry capsules only.
const STREAM_WINDOW: u32 = 64 * 1024;

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

/// The transport of the device: it pings, and takes no requests.
#[must_use]
pub fn client_transport(timing: &Timing) -> TransportConfig {
    let mut transport = transport(timing);
    transport.keep_alive_interval(Some(timing.keepalive)).max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}

/// The transport of the gateway: no pings of its own, traffic is the device's to pay for.
#[must_use]
pub fn server_transport(timing: &Timing) -> TransportConfig {
    let mut transport = transport(timing);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(4));
    transport
}

/// QUIC for the device from its TLS: sets ALPN `h3`, switches resumption and early data off.
///
/// # Errors
/// When `tls` has no cipher suite that QUIC needs.
pub fn client_config(
    tls: impl Into<Arc<rustls::ClientConfig>>,
    transport: TransportConfig,
) -> Result<quinn::ClientConfig, NoInitialCipherSuite> {
    let mut tls = Arc::unwrap_or_clone(tls.into());
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// QUIC for the gateway from its TLS: sets ALPN `h3`, switches resumption and early data off; devices may migrate to
/// other addresses.
///
/// # Errors
/// When `tls` has no cipher suite that QUIC needs.
pub fn server_config(
    tls: impl Into<Arc<rustls::ServerConfig>>,
    transport: TransportConfig,
) -> Result<quinn::ServerConfig, NoInitialCipherSuite> {
    let mut tls = Arc::unwrap_or_clone(tls.into());
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport)).migration(true);
    Ok(config)
}

/// What both sides share. Congestion control is CUBIC, quinn's default: its BBR calls itself experimental.
fn transport(timing: &Timing) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .max_idle_timeout(Some(idle_timeout(timing.idle)))
        // Control, two for QPACK, and some of a kind that is still to be invented.
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(8 * STREAM_WINDOW))
        .send_window(u64::from(8 * STREAM_WINDOW))
        .datagram_send_buffer_size(SEND_BUFFER)
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER));
    transport
}

/// In milliseconds, as QUIC counts; longer than it can say is as long as it can say.
fn idle_timeout(idle: Duration) -> IdleTimeout {
    IdleTimeout::try_from(idle).unwrap_or_else(|_| VarInt::MAX.into())
}
