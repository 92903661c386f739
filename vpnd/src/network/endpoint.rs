//! QUIC connections over a marked socket, the fastest of several addresses.

use std::io;
use std::net::SocketAddr;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No marked socket.
    #[error("cannot open a socket: {0}")]
    Socket(#[source] io::Error),
    /// Nobody answered at any address.
    #[error("no connection to {server}: {}", attempts.iter().map(|(address, why)| format!("{address}: {why}")).collect::<Vec<_>>().join("; "))]
    Unreachable {
        /// The server's name or address.
        server: String,
        /// What happened at each address that was tried.
        attempts: Vec<(SocketAddr, AttemptError)>,
    },
}

/// Why an address did not answer.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// TCP or the socket.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// QUIC would not start.
    #[error("{0}")]
    Setup(#[from] quinn::ConnectError),
    /// The QUIC handshake, TLS errors and the gateway's refusal included.
    #[error("{0}")]
    Quic(#[from] quinn::ConnectionError),
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
}
