//! What happens to a tunnel that must not be noticed by those who use it: UDP is blocked, uplinks and addresses come and go, gateways
//! leave and come back.
//!
//! Each test has a TCP connection in the tunnel that carries bytes both ways all the time. Their SHA-256 is compared at the end, and the
//! longest time in which nothing came through is printed.
#![allow(clippy::unwrap_used)]

mod blocked_udp;
mod gateways;
mod heartbeat;
mod on_demand;
mod proxy;
mod stage;
mod uplinks;
