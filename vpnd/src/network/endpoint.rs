//! QUIC connections over a marked socket, to the fastest of several addresses.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime};

use super::race::{ConnectError, race};
use super::socket;

/// A connection whose handshake is complete.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub connection: Connection,
    /// Its endpoint, which has this connection only.
    pub endpoint: Endpoint,
    /// The address that answered.
    pub remote: SocketAddr,
}

/// Connects to the first of `addresses` that answers, over a socket of its own. `server_name` is what the server's
/// certificate has to say: a name, or an address without brackets.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    addresses: &[SocketAddr],
    server_name: &str,
    config: ClientConfig,
) -> Result<Connected, ConnectError> {
    let socket = socket::quic().map_err(ConnectError::Socket)?;
    let endpoint =
        Endpoint::new(EndpointConfig::default(), None, socket, Arc::new(TokioRuntime)).map_err(ConnectError::Socket)?;
    let (remote, connection) = race(server_name, addresses, |address| {
        let connecting = endpoint.connect_with(config.clone(), address, server_name);
        async move { Ok(connecting?.await?) }
    })
    .await?;
    Ok(Connected { connection, endpoint, remote })
}
