//! IP over HTTP: the data plane that the device and the gateway share.
//!
//! The tunnel is CONNECT-IP ([RFC 9484]) over HTTP/3 ([RFC 9114]): one extended CONNECT request per
//! QUIC connection, IP packets in HTTP datagrams ([RFC 9297]), addresses and routes in capsules.
//! Who the peer is, which addresses it gets and how the machine is configured is decided by the
//! programs; this crate knows nothing of identities.
//!
//! | layer | modules |
//! |---|---|
//! | codecs, without I/O | [`varint`], [`http3`], [`qpack`], [`capsule`], [`request`], [`template`] |
//! | IP, without I/O | [`packet`], [`offload`], [`routes`], [`queue`] |
//! | the tunnel over QUIC, without I/O | [`session`], [`quic`], [`congestion`], [`client`], [`server`] |
//! | the tunnel over TCP | [`http2`] |
//! | sockets | [`udp`], [`hub`] |
//! | the tunnel over TCP | [`http2`], [`lane`], [`proxy`] |
//! | the device's loop | [`carrier`] |
//! | through a proxy | [`proxy`] |
//! | the interface | [`tun`] |
//!
//! [RFC 9484]: https://www.rfc-editor.org/rfc/rfc9484
//! [RFC 9114]: https://www.rfc-editor.org/rfc/rfc9114
//! [RFC 9297]: https://www.rfc-editor.org/rfc/rfc9297

pub mod capsule;
pub mod carrier;
pub mod client;
pub mod congestion;
pub mod http2;
pub mod http3;
pub mod hub;
pub mod lane;
pub mod offload;
pub mod packet;
pub mod proxy;
pub mod qpack;
pub mod queue;
pub mod quic;
pub mod request;
pub mod routes;
pub mod scope;
pub mod server;
pub mod session;
#[cfg(test)]
mod split;
pub mod template;
pub mod tun;
pub mod udp;
pub mod varint;
