//! HTTP/3 error codes.

use std::{borrow::Cow, fmt};

/// An HTTP/3 application error code (RFC 9114 §8.1, RFC 9204 §6, RFC 9297 §5.2).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code(pub u64);

impl Code {
    /// RFC 9297 §5.2: a datagram could not be parsed or came for an impossible stream.
    pub const DATAGRAM_ERROR: Self = Self(0x33);
    /// The connection or stream ends without an error.
    pub const NO_ERROR: Self = Self(0x100);
    /// The peer broke the protocol in a way that no other code names.
    pub const GENERAL_PROTOCOL_ERROR: Self = Self(0x101);
    /// Something failed on this side.
    pub const INTERNAL_ERROR: Self = Self(0x102);
    /// The peer opened a stream that it must not open.
    pub const STREAM_CREATION_ERROR: Self = Self(0x103);
    /// A stream that must live as long as the connection was closed.
    pub const CLOSED_CRITICAL_STREAM: Self = Self(0x104);
    /// A frame came where it is not allowed.
    pub const FRAME_UNEXPECTED: Self = Self(0x105);
    /// A frame's layout or size is wrong.
    pub const FRAME_ERROR: Self = Self(0x106);
    /// The peer takes more than its share.
    pub const EXCESSIVE_LOAD: Self = Self(0x107);
    /// A stream or push id is used wrongly.
    pub const ID_ERROR: Self = Self(0x108);
    /// A setting has a value that it must not have.
    pub const SETTINGS_ERROR: Self = Self(0x109);
    /// The control stream does not begin with SETTINGS.
    pub const MISSING_SETTINGS: Self = Self(0x10a);
    /// The server did not process the request: it may be repeated.
    pub const REQUEST_REJECTED: Self = Self(0x10b);
    /// The request or its answer is no longer wanted.
    pub const REQUEST_CANCELLED: Self = Self(0x10c);
    /// The stream ended within a message.
    pub const REQUEST_INCOMPLETE: Self = Self(0x10d);
    /// A message is malformed; also every malformed capsule (RFC 9297 §3.3).
    pub const MESSAGE_ERROR: Self = Self(0x10e);
    /// The connection behind a CONNECT request was reset.
    pub const CONNECT_ERROR: Self = Self(0x10f);
    /// The request needs another version of HTTP.
    pub const VERSION_FALLBACK: Self = Self(0x110);
    /// A field section could not be decoded.
    pub const QPACK_DECOMPRESSION_FAILED: Self = Self(0x200);
    /// The peer's encoder stream could not be read.
    pub const QPACK_ENCODER_STREAM_ERROR: Self = Self(0x201);
    /// The peer's decoder stream could not be read.
    pub const QPACK_DECODER_STREAM_ERROR: Self = Self(0x202);

    /// The name in the registry, without `H3_`.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x33 => "DATAGRAM_ERROR",
            0x100 => "NO_ERROR",
            0x101 => "GENERAL_PROTOCOL_ERROR",
            0x102 => "INTERNAL_ERROR",
            0x103 => "STREAM_CREATION_ERROR",
            0x104 => "CLOSED_CRITICAL_STREAM",
            0x105 => "FRAME_UNEXPECTED",
            0x106 => "FRAME_ERROR",
            0x107 => "EXCESSIVE_LOAD",
            0x108 => "ID_ERROR",
            0x109 => "SETTINGS_ERROR",
            0x10a => "MISSING_SETTINGS",
            0x10b => "REQUEST_REJECTED",
            0x10c => "REQUEST_CANCELLED",
            0x10d => "REQUEST_INCOMPLETE",
            0x10e => "MESSAGE_ERROR",
            0x10f => "CONNECT_ERROR",
            0x110 => "VERSION_FALLBACK",
            0x200 => "QPACK_DECOMPRESSION_FAILED",
            0x201 => "QPACK_ENCODER_STREAM_ERROR",
            0x202 => "QPACK_DECODER_STREAM_ERROR",
            _ => return None,
        })
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{:#x}", self.0),
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {reason}")]
pub struct ProtocolError {
    /// What the peer is told.
    pub code: Code,
    /// What it did.
    pub reason: Cow<'static, str>,
}

impl ProtocolError {
    pub(crate) fn new(code: Code, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { code, reason: reason.into() }
    }
}
