//! Tunnels over TCP from a marked socket, through a proxy where there is one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::client::ConnectRequest;
use m2m_tunnel::http2::tcp::ShortQueue;
use m2m_tunnel::http2::{self, Http2Tunnel};
use m2m_tunnel::proxy::{self, Credentials};
use rustls_pki_types::ServerName;
use tokio_rustls::TlsConnector;
use url::Host;

use super::race::{AttemptError, ConnectError, race};
use super::socket;

/// A proxy for HTTP CONNECT (RFC 9110 section 9.3.6).
#[derive(Debug, Clone)]
pub struct ProxyServer {
    /// Its name or address.
    pub host: Host<String>,
    /// Its TCP port.
    pub port: u16,
    /// What it wants to see (RFC 7617).
    pub credentials: Option<Credentials>,
}

/// Opens a tunnel to the gateway `origin`, by the first of `addresses` that gives one: the gateway's, or the proxy's. `uplink` is the
/// network interface to use. With the tunnel
/// comes the address that it uses on this machine.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(
    addresses: &[SocketAddr],
    origin: &HttpsOrigin,
    tls: Arc<rustls::ClientConfig>,
    proxy: Option<&ProxyServer>,
    uplink: Option<&str>,
) -> Result<(SocketAddr, (Http2Tunnel, IpAddr)), ConnectError> {
    let tls = TlsConnector::from(tls);
    race(&origin.authority(), addresses, |address| {
        let tls = tls.clone();
        async move {
            let mut stream = socket::tcp(address, uplink).await?;
            let local = stream.local_addr()?.ip();
            if let Some(proxy) = proxy {
                let target = format!("{}:{}", origin.host(), origin.port());
                stream = proxy::connect(stream, &target, proxy.credentials.as_ref()).await?;
            }
            let name = ServerName::try_from(origin.server_name()).map_err(std::io::Error::other)?;
            let stream = tls.connect(name, ShortQueue::new(stream)?).await?;
            let tunnel = http2::connect(stream, ConnectRequest::new(origin.authority())).await;
            Ok((tunnel.map_err(AttemptError::Tunnel)?, local))
        }
    })
    .await
}
