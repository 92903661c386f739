//! Why a tunnel is gone.

use quinn_proto::ConnectionError;

use crate::http3::Code;

/// Why a tunnel is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseReason {
    /// This side closed it.
    #[error("closed by this side")]
    Local,
    /// The peer closed it, with its reason.
    #[error("closed by the peer: {code} {reason:?}")]
    Peer {
        /// The HTTP/3 code.
        code: Code,
        /// The peer's words, empty if it gave none.
        reason: String,
    },
    /// The peer ended the tunnel's stream in order.
    #[error("ended by the peer")]
    Ended,
    /// The peer broke the protocol, so this side closed the tunnel.
    #[error("protocol error of the peer: {code}: {reason}")]
    Protocol {
        /// The code that the peer was told.
        code: Code,
        /// What it did.
        reason: String,
    },
    /// Nothing was heard from the peer for the idle timeout.
    #[error("nothing heard from the peer for too long")]
    TimedOut,
    /// This side ended the TLS handshake: it does not accept the peer's certificate (RFC 8446 §6).
    #[error("TLS handshake: {text}")]
    Distrusted {
        /// The alert's number, 45 for an expired certificate.
        alert: u8,
        /// What is wrong.
        text: String,
    },
    /// The peer ended the TLS handshake, or did not accept this side's certificate (RFC 8446 §6).
    #[error("refused in the TLS handshake: {text}")]
    TlsAlert {
        /// The alert's number, 44 for a revoked certificate.
        alert: u8,
        /// Its name.
        text: String,
    },
    /// The connection failed otherwise.
    #[error("connection failed: {0}")]
    Transport(String),
}

/// TLS alerts as QUIC carries them (RFC 9001 §4.8).
fn alert(code: u64) -> Option<u8> {
    u8::try_from(code.checked_sub(0x100)?).ok()
}

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::ApplicationClosed(close) => {
                Self::Peer { code: Code(close.error_code.into_inner()), reason: printable(&close.reason) }
            }
            ConnectionError::ConnectionClosed(close) => match alert(close.error_code.into()) {
                Some(alert) => Self::TlsAlert { alert, text: printable(close.error_code.to_string().as_bytes()) },
                None => Self::Transport(printable(close.to_string().as_bytes())),
            },
            ConnectionError::TransportError(error) => match alert(error.code.into()) {
                Some(alert) => Self::Distrusted { alert, text: printable(error.reason.as_bytes()) },
                None => Self::Transport(error.to_string()),
            },
            other => Self::Transport(other.to_string()),
        }
    }
}

/// Bytes of a reason that is sent or kept.
pub(crate) const MAX_REASON: usize = 256;

/// Text from the peer, fit for a log: bounded and without control characters.
pub(crate) fn printable(text: &[u8]) -> String {
    let text = &text[..text.len().min(MAX_REASON)];
    String::from_utf8_lossy(text).chars().filter(|character| !character.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_the_peer_is_made_printable() {
        assert_eq!(printable(b"no\x1b[31m\nway\xff"), "no[31mway\u{fffd}");
        assert_eq!(printable(&[b'x'; 1000]).len(), MAX_REASON);
    }
}
