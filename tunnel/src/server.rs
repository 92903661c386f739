//! What keeps a gateway from giving a tunnel.

use std::time::Duration;

use crate::session::CloseReason;

/// How long a client may take to ask for a tunnel.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The client does not accept HTTP datagrams.
    #[error("the client does not accept HTTP datagrams")]
    Unsupported,
    /// No CONNECT-IP request in time.
    #[error("the client did not ask for a tunnel in time")]
    TimedOut,
    /// The connection ended before the request.
    #[error("{0}")]
    Closed(#[from] CloseReason),
}
