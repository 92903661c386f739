//! HTTP/2's error codes (RFC 9113 §7) and those of HTTP/3, in which the tunnel's end is told.

use h2::Reason;

use super::transport::Socket;
use crate::{http3::Code, session::CloseReason};

/// The code of HTTP/3 that says the same, or the closest.
pub(super) fn to_code(reason: Reason) -> Code {
    match reason {
        Reason::NO_ERROR => Code::NO_ERROR,
        Reason::INTERNAL_ERROR => Code::INTERNAL_ERROR,
        Reason::FLOW_CONTROL_ERROR | Reason::ENHANCE_YOUR_CALM => Code::EXCESSIVE_LOAD,
        Reason::SETTINGS_TIMEOUT => Code::SETTINGS_ERROR,
        Reason::STREAM_CLOSED => Code::FRAME_UNEXPECTED,
        Reason::FRAME_SIZE_ERROR => Code::FRAME_ERROR,
        Reason::REFUSED_STREAM => Code::REQUEST_REJECTED,
        Reason::CANCEL => Code::REQUEST_CANCELLED,
        Reason::COMPRESSION_ERROR => Code::QPACK_DECOMPRESSION_FAILED,
        Reason::CONNECT_ERROR => Code::CONNECT_ERROR,
        Reason::HTTP_1_1_REQUIRED => Code::VERSION_FALLBACK,
        _ => Code::GENERAL_PROTOCOL_ERROR,
    }
}

/// The reason of HTTP/2 that says the same, or the closest. A malformed capsule is a PROTOCOL_ERROR (RFC 9297 §3.3).
pub(super) fn from_code(code: Code) -> Reason {
    match code {
        Code::NO_ERROR => Reason::NO_ERROR,
        Code::INTERNAL_ERROR => Reason::INTERNAL_ERROR,
        Code::EXCESSIVE_LOAD => Reason::ENHANCE_YOUR_CALM,
        Code::FRAME_ERROR => Reason::FRAME_SIZE_ERROR,
        Code::REQUEST_REJECTED => Reason::REFUSED_STREAM,
        Code::REQUEST_CANCELLED => Reason::CANCEL,
        Code::QPACK_DECOMPRESSION_FAILED => Reason::COMPRESSION_ERROR,
        Code::CONNECT_ERROR => Reason::CONNECT_ERROR,
        Code::VERSION_FALLBACK => Reason::HTTP_1_1_REQUIRED,
        _ => Reason::PROTOCOL_ERROR,
    }
}

/// Why a connection is gone that failed with `error`.
pub(super) fn of_error(error: &h2::Error, socket: &Socket) -> CloseReason {
    if let Some(io) = error.get_io() {
        return socket.fault().unwrap_or_else(|| CloseReason::Transport(io.to_string()));
    }
    let code = to_code(error.reason().unwrap_or(Reason::INTERNAL_ERROR));
    if error.is_remote() {
        return CloseReason::Peer { code, reason: String::new() };
    }
    if error.is_library() {
        return CloseReason::Protocol { code, reason: error.to_string() };
    }
    CloseReason::Local
}

/// Why a connection is gone that ended so, after the peer's GOAWAY if it sent one.
pub(super) fn of_end(outcome: Result<(), h2::Error>, farewell: Option<Code>, socket: &Socket) -> CloseReason {
    match (outcome, farewell) {
        (Err(error), _) => of_error(&error, socket),
        (Ok(()), Some(code)) => CloseReason::Peer { code, reason: String::new() },
        (Ok(()), None) => {
            socket.fault().unwrap_or_else(|| CloseReason::Transport("the peer closed the connection".into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_both_have_survive_the_round_trip() {
        for code in [
            Code::NO_ERROR,
            Code::INTERNAL_ERROR,
            Code::EXCESSIVE_LOAD,
            Code::FRAME_ERROR,
            Code::REQUEST_REJECTED,
            Code::REQUEST_CANCELLED,
            Code::QPACK_DECOMPRESSION_FAILED,
            Code::CONNECT_ERROR,
            Code::VERSION_FALLBACK,
        ] {
            assert_eq!(to_code(from_code(code)), code);
        }
    }

    #[test]
    fn a_malformed_capsule_is_a_protocol_error() {
        assert_eq!(from_code(Code::MESSAGE_ERROR), Reason::PROTOCOL_ERROR);
        assert_eq!(to_code(Reason::from(0x77)), Code::GENERAL_PROTOCOL_ERROR);
    }
}
