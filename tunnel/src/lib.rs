//! IP over HTTP: the data plane that the device and the gateway share.
//!
//! The tunnel is CONNECT-IP ([RFC 9484]) over HTTP/3 ([RFC 9114]): one extended CONNECT request per
//! QUIC connection, IP packets in HTTP datagrams ([RFC 9297]), addresses and routes in capsules.
//! Who the peer is, which addresses it gets and how the machine is configured is decided by the
//! programs; this crate knows nothing of identities.
//!
//! | layer | modules |
//! |---|---|
//! | codecs, without I/O | [`varint`], [`http3`], [`qpack`], [`capsule`], [`scope`], [`template`], [`request`] |
//! | IP, without I/O | [`packet`], [`routes`] |
//! | the tunnel over QUIC | [`quic`], [`client`], [`server`], [`session`] |
//! | the device | [`tun`], [`pump`] |
//!
//! # The device's side
//! ```no_run
//! use std::{net::IpAddr, sync::Arc};
//! use m2m_tunnel::{client, pump, quic, session::Event, tun};
//!
//! # async fn device(tls: rustls::ClientConfig, gateway: std::net::SocketAddr) -> Result<(), Box<dyn std::error::Error>> {
//! let mut endpoint = quinn::Endpoint::client("[::]:0".parse()?)?;
//! endpoint.set_default_client_config(quic::client_config(tls, quic::client_transport(&quic::Timing::default()))?);
//! let connection = endpoint.connect(gateway, "gateway.example")?.await?;
//!
//! let mut session = client::connect(connection, client::ConnectRequest::new("gateway.example")).await?;
//! let tun = tun::Tun::open(&tun::TunConfig { name: "m2m0".into(), mtu: 1280 })?;
//! let (policy, policy_seen) = tokio::sync::watch::channel(pump::Policy::default());
//! let counters = Arc::new(pump::Counters::default());
//! let mut pump = Box::pin(pump::run(&tun, session.packets(), policy_seen, Arc::clone(&counters)));
//! loop {
//!     tokio::select! {
//!         end = &mut pump => return Err(end.into()),
//!         event = session.next_event() => match event {
//!             Event::AddressesAssigned(assigned) => {
//!                 // Set them on the interface, then let packets pass.
//!                 policy.send_replace(pump::Policy::from_assigned(&assigned));
//!             }
//!             Event::RoutesAdvertised(ranges) => println!("{} ranges", ranges.len()),
//!             Event::Closed(reason) => return Err(reason.into()),
//!             // The gateway is about to leave (GoAway), or wants addresses of this side.
//!             _ => {}
//!         },
//!     }
//! }
//! # }
//! ```
//!
//! # The gateway's side
//! ```no_run
//! use m2m_tunnel::{capsule::AssignedAddress, routes::IpRange, server};
//!
//! # async fn gateway(connection: quinn::Connection) -> Result<(), Box<dyn std::error::Error>> {
//! let incoming = server::accept(connection.clone()).await?;
//! // connection.peer_identity() says who it is; refuse with incoming.reject(403, "…").
//! let mut session = incoming.accept().await?;
//! session.control().assign_addresses(vec![AssignedAddress::unrequested("10.99.0.2/32".parse()?)]).await?;
//! session.control().advertise_routes(vec![IpRange::from_prefix("10.20.0.0/24".parse()?)]).await?;
//! let mut packets = Vec::new();
//! session.packets().recv_batch(&mut packets).await?;
//! # Ok(())
//! # }
//! ```
//!
//! [RFC 9484]: https://www.rfc-editor.org/rfc/rfc9484
//! [RFC 9114]: https://www.rfc-editor.org/rfc/rfc9114
//! [RFC 9297]: https://www.rfc-editor.org/rfc/rfc9297

pub mod capsule;
pub mod client;
mod exchange;
pub mod http3;
mod link;
pub mod packet;
mod peer;
pub mod pump;
pub mod qpack;
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
pub mod varint;
