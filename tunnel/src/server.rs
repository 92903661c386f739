//! Accepting a tunnel.

use http::StatusCode;

use crate::session::{CloseReason, Session};

/// Waits for the device's CONNECT-IP request on a fresh connection, which it owns from then on: an error closes it, too.
/// Any other request gets 404 (GET, HEAD) or 501, a CONNECT-IP request for less than all targets and protocols 400.
///
/// # Errors
/// [`AcceptError`].
pub async fn accept(_connection: quinn::Connection) -> Result<Incoming, AcceptError> {
    todo!()
}

/// A device that asks for a tunnel. Dropping it refuses with 503.
#[derive(Debug)]
pub struct Incoming {}

impl Incoming {
    /// The name under which the device reached this gateway.
    #[must_use]
    pub fn authority(&self) -> &str {
        todo!()
    }

    /// Answers 200. Addresses and routes come after it, by [`Session::control`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn accept(self) -> Result<Session, AcceptError> {
        todo!()
    }

    /// Refuses with `status` and says why in plain text, waits until the device has it (2 seconds at most) and closes the
    /// connection.
    pub async fn reject(self, _status: StatusCode, _reason: &str) {
        todo!()
    }
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The client does not accept HTTP datagrams.
    #[error("the client does not accept HTTP datagrams")]
    Unsupported,
    /// No CONNECT-IP request within 10 seconds.
    #[error("the client did not ask for a tunnel in time")]
    TimedOut,
    /// The connection ended before the request.
    #[error("{0}")]
    Closed(CloseReason),
}
