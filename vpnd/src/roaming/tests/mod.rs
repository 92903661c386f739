#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bench;
mod gateways;
mod model;
mod outages;
mod silence;
mod start;
mod uplinks;
mod world;
