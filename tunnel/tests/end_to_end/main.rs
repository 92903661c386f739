//! Tunnels over loopback: both sides of this crate, and each against a peer that breaks the protocol.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod loopback;
mod misbehaviour;
mod refusals;
mod sessions;
