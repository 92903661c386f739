//! HTTP/3, as much as CONNECT-IP needs (RFC 9114, RFC 9220, RFC 9297).

mod code;

pub use code::Code;
