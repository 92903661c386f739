//! The manager as devices, gateways and administrators meet it: the real program, real TLS, a real TPM (swtpm).
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod client;
mod commands;
mod device;
mod emulator;
mod enrolment;
mod est;
mod limits;
mod manager;
