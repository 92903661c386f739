//! How QUIC is set up for a tunnel.

use std::{sync::Arc, time::Duration};

use quinn_proto::{
    AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
    crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig},
};

use crate::congestion::ShortQueueConfig;

/// The ALPN protocol of HTTP/3.
pub const ALPN: &[u8] = b"h3";

/// The UDP payload in bytes that a connection begins with: an inner packet of 1280 bytes fits with the longest
/// connection ids and stream ids (RFC 9484 §7.1 counts 1331).
pub const INITIAL_MTU: u16 = 1350;

/// Bytes of packets in QUIC's own queue, one burst: what waits longer waits in a [`Queue`](crate::queue::Queue).
const SEND_BUFFER: usize = 128 * 1024;

/// Bytes of packets that came and were not taken yet: more than one system call brings.
const RECEIVE_BUFFER: usize = 2 * 1024 * 1024;

/// Streams carry capsules only.
const STREAM_WINDOW: u32 = 64 * 1024;

/// Silence after which a connection is dead: longer than the longest keepalive interval that a device may choose. That the peer is
/// gone shows earlier, when something is sent ([`Event::Silent`](crate::session::Event::Silent)).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(20 * 60);

/// Packets that are acknowledged together while many come (draft-ietf-quic-ack-frequency): an acknowledgement costs as much as a
/// packet.
const ACK_THRESHOLD: u32 = 16;

/// And at the latest after this time: what is held back longer looks like a queue to the sender.
const ACK_DELAY: Duration = Duration::from_millis(5);

/// The transport of the device: it takes no requests.
#[must_use]
pub fn client_transport(idle: Duration) -> TransportConfig {
    let mut transport = transport(idle);
    transport.max_concurrent_bidi_streams(VarInt::from_u32(0));
    transport
}

/// The transport of the gateway.
#[must_use]
pub fn server_transport(idle: Duration) -> TransportConfig {
    let mut transport = transport(idle);
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
) -> Result<quinn_proto::ClientConfig, NoInitialCipherSuite> {
    let mut tls = Arc::unwrap_or_clone(tls.into());
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.resumption = rustls::client::Resumption::disabled();
    tls.enable_early_data = false;
    let mut config = quinn_proto::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
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
) -> Result<quinn_proto::ServerConfig, NoInitialCipherSuite> {
    let mut tls = Arc::unwrap_or_clone(tls.into());
    tls.alpn_protocols = vec![ALPN.to_vec()];
    tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    tls.send_tls13_tickets = 0;
    tls.max_early_data_size = 0;
    let mut config = quinn_proto::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport)).migration(true);
    Ok(config)
}

/// What both sides share.
fn transport(idle: Duration) -> TransportConfig {
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(VarInt::from_u32(ACK_THRESHOLD)).max_ack_delay(Some(ACK_DELAY));
    let mut transport = TransportConfig::default();
    transport
        .initial_mtu(INITIAL_MTU)
        .mtu_discovery_config(Some(MtuDiscoveryConfig::default()))
        .max_idle_timeout(Some(idle_timeout(idle)))
        // Control, two for QPACK, and some of a kind that is still to be invented.
        .max_concurrent_uni_streams(VarInt::from_u32(8))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(8 * STREAM_WINDOW))
        .send_window(u64::from(8 * STREAM_WINDOW))
        .congestion_controller_factory(Arc::new(ShortQueueConfig::default()))
        .ack_frequency_config(Some(acknowledgements))
        .datagram_send_buffer_size(SEND_BUFFER)
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER));
    transport
}

/// In milliseconds, as QUIC counts; longer than it can say is as long as it can say.
fn idle_timeout(idle: Duration) -> IdleTimeout {
    IdleTimeout::try_from(idle).unwrap_or_else(|_| VarInt::MAX.into())
}
