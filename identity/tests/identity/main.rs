//! The crate as its users have it: with a TPM 2.0 (swtpm) that each test starts for itself, and TLS over
//! loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod emulator;
mod endorsement;
mod pki;
mod residents;
mod tls;
mod tpm;
