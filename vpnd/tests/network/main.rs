//! The device's network against a real kernel, nft and dnsmasq, in network namespaces that each test makes for itself. Needs root.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod connections;
mod far;
mod kernel;
mod name_resolution;
mod place;
mod uplink_changes;
