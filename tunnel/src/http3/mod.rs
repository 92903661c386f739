//! HTTP/3, as much as CONNECT-IP needs (RFC 9114, RFC 9220, RFC 9297). Without I/O: bytes in, events out.

mod code;
pub mod datagram;
pub mod frame;
pub mod message;
pub mod settings;
pub mod stream;

pub use code::{Code, ProtocolError};
