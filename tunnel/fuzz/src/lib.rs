//! The tunnel's codecs, and what every fuzz target needs to judge them. `tunnel/fuzz/run` builds and runs the targets.
//!
//! The codecs are taken in by their files and not as the crate `m2m-tunnel`: QUIC, TLS and its cryptography would be
//! compiled once more, with coverage that says nothing about a codec.

#[path = "../../src/capsule/mod.rs"]
pub mod capsule;
#[path = "../../src/http3/mod.rs"]
pub mod http3;
#[path = "../../src/packet/mod.rs"]
pub mod packet;
#[path = "../../src/qpack/mod.rs"]
pub mod qpack;
#[path = "../../src/request.rs"]
pub mod request;
#[path = "../../src/routes.rs"]
pub mod routes;
#[path = "../../src/scope.rs"]
pub mod scope;
#[path = "../../src/template/mod.rs"]
pub mod template;
#[path = "../../src/varint.rs"]
pub mod varint;

pub mod memory;
pub mod pieces;
