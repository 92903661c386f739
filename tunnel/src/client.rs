//! What a device asks its gateway for.

use std::time::Duration;

use http::StatusCode;

use crate::{qpack::Field, request, session::CloseReason};

/// What to ask the gateway for.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The gateway's name, and port unless 443, as it stands in `:authority`.
    pub authority: String,
    /// How long handshake and answer may take.
    pub timeout: Duration,
}

impl ConnectRequest {
    /// All targets, all protocols; 10 seconds to answer.
    #[must_use]
    pub fn new(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), timeout: Duration::from_secs(10) }
    }

    /// The request's field section.
    pub(crate) fn fields(&self) -> Vec<Field> {
        request::unlimited(&self.authority).to_fields()
    }
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
    Closed(#[from] CloseReason),
}
