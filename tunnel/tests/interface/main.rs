//! Two machines behind TUN interfaces, a tunnel between them, and the kernel's own TCP and UDP through it.
//!
//! Each test runs in network namespaces of its own, which it makes in a user namespace: it needs no root and touches
//! nothing of the machine.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../certified/mod.rs"]
mod certified;
mod machines;
mod queues;
mod traffic;
