//! Hostile clients against the gateway, while an honest device works: `m2m-gateway` and `vpnd` from the files of `docs/standalone.md`, a
//! TCP connection in the tunnel whose bytes are compared, and datagrams whose round trip is measured.
//!
//! What each attack must not change, and what is measured of it, is in `stage`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod capsules;
mod gateway;
mod half_open;
mod headers;
mod honest;
mod http2;
mod loris;
mod peer;
mod sessions;
mod spoofed;
mod stage;
mod streams;
