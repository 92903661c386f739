//! What a device asks its gateway for.

use std::{
    future::poll_fn,
    time::{Duration, Instant},
};

use http::StatusCode;
use quinn_proto::ConnectionHandle;

use crate::{
    hub::Hub,
    qpack::Field,
    request,
    session::{CloseReason, Event},
};

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

/// Drives a session that was begun by [`Hub::connect`] until its tunnel is open. What happens after that is left in the session.
///
/// The signature of the handshake is made in here, and may take long: not to be called in a task that has other things to do.
///
/// # Errors
/// [`ConnectError`]; the connection is closed, and the peer told.
pub async fn establish(hub: &mut Hub, handle: ConnectionHandle) -> Result<(), ConnectError> {
    let mut failure = None;
    loop {
        let now = Instant::now();
        hub.receive(now).map_err(|error| CloseReason::Transport(error.to_string()))?;
        hub.handle_timeout(now);
        while hub.next_changed(now).is_some() {
            let Some(session) = hub.session(handle) else { break };
            while let Some(event) = session.poll_event() {
                match event {
                    Event::Established => {
                        hub.transmit(now);
                        return Ok(());
                    }
                    Event::Refused { status, reason } => failure = Some(ConnectError::Refused { status, reason }),
                    Event::Unsupported { missing } => failure = Some(ConnectError::Unsupported { missing }),
                    Event::Closed(reason) => {
                        hub.transmit(now);
                        return Err(failure.unwrap_or(match reason {
                            CloseReason::TimedOut => ConnectError::TimedOut,
                            reason => ConnectError::Closed(reason),
                        }));
                    }
                    _ => {}
                }
            }
        }
        hub.transmit(now);
        let due = hub.poll_timeout();
        tokio::select! {
            () = poll_fn(|context| hub.poll_ready(context)) => {}
            () = tokio::time::sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
        }
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
