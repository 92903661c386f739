//! The connection under a tunnel and why it ended.

use std::sync::{Arc, OnceLock};

use quinn::{Connection, ConnectionError, VarInt};

use crate::{
    http3::{Code, ProtocolError},
    session::CloseReason,
};

/// What all tasks of a tunnel share.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    ending: OnceLock<CloseReason>,
}

impl Link {
    pub(crate) fn new(connection: Connection) -> Arc<Self> {
        Arc::new(Self { connection, ending: OnceLock::new() })
    }

    /// Closes the connection. The first reason stays.
    pub(crate) fn close(&self, ending: CloseReason, code: Code, text: &str) {
        // A connection that is gone already has its own reason.
        if self.connection.close_reason().is_none() && self.ending.set(ending).is_ok() {
            let text = text.get(..text.floor_char_boundary(MAX_REASON)).unwrap_or_default();
            self.connection.close(varint(code), text.as_bytes());
        }
    }

    /// Closes the connection because of what the peer did.
    pub(crate) fn fail(&self, error: &ProtocolError) {
        log::debug!("protocol error of the peer: {error}");
        let ending = CloseReason::Protocol { code: error.code, reason: error.reason.clone().into_owned() };
        self.close(ending, error.code, &error.reason);
    }

    /// Why it ended, if it did.
    pub(crate) fn ended(&self) -> Option<CloseReason> {
        let of_connection = || self.connection.close_reason().map(CloseReason::from);
        self.ending.get().cloned().or_else(of_connection)
    }

    /// Why it ended. To be asked when something showed that it did.
    pub(crate) fn reason(&self) -> CloseReason {
        self.ended().unwrap_or(CloseReason::Local)
    }

    /// Waits for the end.
    pub(crate) async fn closed(&self) -> CloseReason {
        self.connection.closed().await;
        self.reason()
    }
}

/// Closes the tunnel when dropped.
#[derive(Debug)]
pub(crate) struct Owner(pub(crate) Arc<Link>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(CloseReason::Local, Code::NO_ERROR, "");
    }
}

/// Bytes of a reason that is sent or kept.
const MAX_REASON: usize = 256;

/// Text from the peer, fit for a log: bounded and without control characters.
pub(crate) fn printable(text: &[u8]) -> String {
    let text = &text[..text.len().min(MAX_REASON)];
    String::from_utf8_lossy(text).chars().filter(|character| !character.is_control()).collect()
}

/// A code as QUIC wants it.
pub(crate) fn varint(code: Code) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or(VarInt::MAX)
}

impl From<ConnectionError> for CloseReason {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::LocallyClosed => Self::Local,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::ApplicationClosed(close) => {
                Self::Peer { code: Code(close.error_code.into_inner()), reason: printable(&close.reason) }
            }
            ConnectionError::ConnectionClosed(close) => match u64::from(close.error_code) {
                // RFC 9001 §4.8
                code @ 0x100..=0x1ff => Self::TlsAlert {
                    alert: (code - 0x100) as u8,
                    text: printable(close.error_code.to_string().as_bytes()),
                },
                _ => Self::Transport(printable(close.to_string().as_bytes())),
            },
            other => Self::Transport(other.to_string()),
        }
    }
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
