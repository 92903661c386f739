//! Tunnels over QUIC from a marked socket, to the fastest of several addresses.

use std::net::SocketAddr;
use std::time::Instant;

use m2m_tunnel::client::{ConnectRequest, establish};
use m2m_tunnel::hub::{ClientConfig, ConnectionHandle, EndpointConfig, Hub};
use m2m_tunnel::udp::UdpSocket;

use super::race::{AttemptError, ConnectError, race};
use super::socket;

/// A tunnel that is open.
#[derive(Debug)]
pub struct Opened {
    /// Its socket and session.
    pub hub: Hub,
    /// The session.
    pub handle: ConnectionHandle,
    /// The address that answered.
    pub remote: SocketAddr,
}

/// Opens a tunnel to the first of `addresses` that gives one, over a socket of its own. `server_name` is what the gateway's
/// certificate has to say: a name, or an address without brackets. `uplink` is the network interface to use.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    addresses: &[SocketAddr],
    server_name: &str,
    request: ConnectRequest,
    config: ClientConfig,
    uplink: Option<&str>,
) -> Result<Opened, ConnectError> {
    let (remote, (hub, handle)) = race(server_name, addresses, |address| {
        let (config, request) = (config.clone(), request.clone());
        async move {
            let socket = UdpSocket::new(socket::quic(uplink)?)?;
            let mut hub = Hub::new(socket, EndpointConfig::default(), None);
            let handle = hub.connect(config, address, server_name, request, Instant::now())?;
            establish(&mut hub, handle).await.map_err(AttemptError::Tunnel)?;
            Ok((hub, handle))
        }
    })
    .await?;
    Ok(Opened { hub, handle, remote })
}
