//! Opening a tunnel.

use std::time::Duration;

use http::StatusCode;

use crate::session::{CloseReason, Session};

/// What to ask the gateway for.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The gateway's name, and port unless 443, as it stands in `:authority`.
    pub authority: String,
    /// How long the gateway may take to answer.
    pub timeout: Duration,
}

impl ConnectRequest {
    /// All targets, all protocols; 10 seconds to answer.
    #[must_use]
    pub fn new(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), timeout: Duration::from_secs(10) }
    }
}

/// Opens the tunnel on a fresh connection, which it owns from then on: an error closes it, too.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(_connection: quinn::Connection, _request: ConnectRequest) -> Result<Session, ConnectError> {
    todo!()
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The gateway answered, and not with success. 401 and 403: this device is not let in.
    #[error("the gateway refused: {status} {reason}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words, empty if it gave none.
        reason: String,
    },
    /// The server at this address speaks HTTP/3 but not CONNECT-IP.
    #[error("the server does not offer IP tunnels: {missing} is missing from its settings")]
    Unsupported {
        /// The setting.
        missing: &'static str,
    },
    /// No answer in time.
    #[error("the gateway did not answer in time")]
    TimedOut,
    /// The connection ended before the answer.
    #[error("{0}")]
    Closed(CloseReason),
}
