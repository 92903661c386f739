//! Tunnels over HTTP/2: both sides of this crate over pipes and over TLS, and each against a peer that breaks the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod ends;
mod misbehaviour;
mod packets;
mod proxy;
mod queues;
mod refusals;
mod splits;
mod tls;
