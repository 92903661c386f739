//! CONNECT-IP over HTTP/2 (RFC 9484, extended CONNECT of RFC 8441): the tunnel where UDP does not pass.
//!
//! It runs over any reliable stream, in practice TLS 1.3 with [`ALPN`] over a [`tcp::ShortQueue`]; the TLS handshake is
//! the caller's. IP packets travel in DATAGRAM capsules (RFC 9297 §3.5), many of them in one DATA frame. One connection
//! carries one tunnel.
//!
//! # Short queues
//! TCP keeps what it is given, so whatever is handed over too early waits there where no queue management reaches it.
//! [`Sender`] takes packets only while less waits than the path carries in some 5 milliseconds. Keep the queue that is
//! managed in front of it:
//!
//! ```no_run
//! use std::time::Instant;
//! use m2m_tunnel::{http2, queue::Queue, session::CloseReason};
//!
//! # async fn next_from_interface() -> bytes::Bytes { bytes::Bytes::new() }
//! async fn send(mut sender: http2::Sender) -> Result<(), CloseReason> {
//!     let mut queue = Queue::new(1 << 20, 0);
//!     loop {
//!         tokio::select! {
//!             packet = next_from_interface() => queue.push(packet, Instant::now()),
//!             ready = sender.ready(), if !queue.is_empty() => {
//!                 ready?;
//!                 sender.try_send(&mut std::iter::from_fn(|| queue.pop(Instant::now())))?;
//!             }
//!         }
//!     }
//! }
//! ```
//!
//! # The device's side
//! ```no_run
//! use m2m_tunnel::{client::ConnectRequest, http2, session::Event};
//! # async fn device(tls: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let http2::Http2Tunnel { sender, mut receiver, pinger, control } =
//!     http2::connect(tls, ConnectRequest::new("gateway.example")).await?;
//! let mut packets = Vec::new();
//! loop {
//!     match receiver.recv(&mut packets).await? {
//!         http2::Received::Packets(_) => packets.clear(), // into the interface
//!         http2::Received::Event(Event::AddressesAssigned(addresses)) => println!("{addresses:?}"),
//!         http2::Received::Event(_) => {}
//!     }
//! }
//! # }
//! ```
//!
//! # The gateway's side
//! ```no_run
//! use m2m_tunnel::{capsule::AssignedAddress, http2};
//! # async fn gateway(tls: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static)
//! # -> Result<(), Box<dyn std::error::Error>> {
//! let incoming = http2::accept(tls, std::sync::Arc::default()).await?;
//! // Refuse with incoming.reject(…).
//! let mut tunnel = incoming.accept().await?;
//! tunnel.control.assign_addresses(vec![AssignedAddress::unrequested("10.99.0.2/32".parse()?)])?;
//! let round_trip = tunnel.pinger.ping().await?;
//! # Ok(())
//! # }
//! ```

mod backlog;
mod client;
mod driver;
mod flight;
mod link;
mod pace;
mod reason;
mod receiver;
mod sender;
mod server;
pub mod tcp;
mod transport;
mod tunnel;

pub use client::connect;
pub use receiver::{MAX_BATCH, Received, Receiver};
pub use sender::{MAX_PACKET, Sender};
pub use server::{Incoming, accept};
pub use tunnel::{Control, Http2Tunnel, Pinger};

/// What TLS must agree on (RFC 9113 §3.3).
pub const ALPN: &[u8] = b"h2";

/// The bytes that the peer may send ahead of [`Receiver::recv`]: h2 announces new room when half of it is used up, so
/// that half has to cover 1 Gbit/s at a round trip of 20 ms.
const WINDOW: u32 = 6 * 1024 * 1024;

/// The largest frame in bytes that is received, and that is sent when the peer takes it.
const FRAME_SIZE: u32 = 64 * 1024;

/// The largest list of header fields in bytes that is received, counted as RFC 9113 §6.5.2 does. h2 bounds the
/// CONTINUATION frames by it.
const MAX_HEADER_LIST: u32 = crate::qpack::MAX_FIELD_SECTION_SIZE as u32;

/// What small DATA frames may cost that wait for [`Receiver::recv`], in h2's measure: 256 bytes a frame less its content.
/// A peer that sends each packet in a frame of its own has to come through a short standstill of the receiver.
const SMALL_FRAMES: usize = 8 * 1024 * 1024;
