//! Opens a link of a tunnel.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use m2m_identity::tls::{ClientTls, client_config};
use m2m_protocol::device_config::Proxy;
use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::carrier::Way;
use m2m_tunnel::client::ConnectError;
use m2m_tunnel::http2;
use m2m_tunnel::hub::ClientConfig;
use m2m_tunnel::lane::Lane;
use m2m_tunnel::proxy::Credentials;
use m2m_tunnel::quic;
use zeroize::Zeroizing;

use super::super::device::{Device, Member};
use crate::network::firewall::Opening;
use crate::network::race::{AttemptError, ConnectError as NoConnection};
use crate::network::stream::ProxyServer;
use crate::network::{GatewayConnection, Network, NetworkError};
use crate::peer::{self, Distrust};
use crate::roaming::Transport;
use crate::state::ConnectFailure;

/// A link that the gateway has let in.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) way: Way,
    pub(super) remote: SocketAddr,
    /// The address that it uses on this machine.
    pub(super) local: Option<IpAddr>,
    /// The largest packet in bytes that it carries.
    pub(super) packet_size: usize,
    /// Keeps the firewall open for the gateway.
    pub(super) opening: Opening,
}

/// Opens a link over the network interface `uplink`, over whichever the kernel's routes take without one.
pub(super) async fn open(
    device: Arc<Device>,
    member: Arc<Member>,
    network: Arc<Network>,
    gateway: HttpsOrigin,
    transport: Transport,
    uplink: Option<String>,
) -> Result<Opened, ConnectFailure> {
    let certificate = &member.certificate;
    if certificate.is_expired(device.clock.now()) {
        let text = format!("this device's certificate ended at {}", certificate.not_after);
        return Err(ConnectFailure::Expired(text));
    }
    member.key.take_failure();
    let failed = |error| signing_failed(&member).unwrap_or_else(|| no_connection(error, &device));
    let opened = match transport {
        Transport::Http3 => {
            let config = quic_config(&device, &member)?;
            let connected = network.connect_gateway(&gateway, config, uplink.as_deref()).await.map_err(failed)?;
            let GatewayConnection { tunnel: (mut hub, handle), remote, opening } = connected;
            let packet_size = hub.session(handle).map_or(0, |session| session.max_packet_size());
            let local = hub.local_address(handle);
            Opened { way: Way::Http3(Box::new(hub), handle), remote, local, packet_size, opening }
        }
        Transport::Http2 => {
            let tls = Arc::new(tls_config(&device, &member, http2::ALPN)?);
            let proxy = member.tunnel.proxy.as_deref().map(proxy_server).transpose()?;
            let connected = network.connect_gateway_over_tcp(&gateway, tls, proxy.as_ref(), uplink.as_deref());
            let GatewayConnection { tunnel: (tunnel, local), remote, opening } = connected.await.map_err(failed)?;
            let (lane, incoming) = Lane::start(tunnel);
            Opened { way: Way::Http2(lane, incoming), remote, local: Some(local), packet_size: LARGEST_PACKET, opening }
        }
    };
    device.clock.believe();
    Ok(opened)
}

/// TCP carries packets of any size.
const LARGEST_PACKET: usize = 65_535;

/// The proxy with its password, which is read each time: it may have been changed.
fn proxy_server(proxy: &Proxy) -> Result<ProxyServer, ConnectFailure> {
    let credentials = match proxy.login() {
        None => None,
        Some((user, file)) => {
            let cannot = |error: &dyn std::fmt::Display| ConnectFailure::Local(format!("{}: {error}", file.display()));
            let password = Zeroizing::new(std::fs::read_to_string(file).map_err(|error| cannot(&error))?);
            let password = password.trim_end_matches(['\r', '\n']);
            Some(Credentials::basic(user, password).map_err(|error| cannot(&error))?)
        }
    };
    Ok(ProxyServer { host: proxy.url().host().clone(), port: proxy.url().port(), credentials })
}

fn quic_config(device: &Device, member: &Member) -> Result<ClientConfig, ConnectFailure> {
    let tls = tls_config(device, member, quic::ALPN)?;
    quic::client_config(tls, quic::client_transport(quic::IDLE_TIMEOUT))
        .map_err(|error| ConnectFailure::Local(error.to_string()))
}

fn tls_config(device: &Device, member: &Member, alpn: &[u8]) -> Result<rustls::ClientConfig, ConnectFailure> {
    client_config(ClientTls {
        anchors: &member.anchors,
        identity: Some(&member.identity),
        alpn: &[alpn],
        clock: device.clock.provider(),
    })
    .map_err(|error| ConnectFailure::Identity(error.to_string()))
}

/// Whether it was this device's own key that failed.
fn signing_failed(member: &Member) -> Option<ConnectFailure> {
    member.key.take_failure().map(ConnectFailure::Identity)
}

fn no_connection(error: NetworkError, device: &Device) -> ConnectFailure {
    let distrust = match &error {
        NetworkError::Connect(NoConnection::Unreachable { attempts, .. }) => {
            attempts.iter().find_map(|(_, why)| match why {
                AttemptError::Tunnel(ConnectError::Closed(reason)) => peer::of_tunnel(reason, &device.clock),
                AttemptError::Io(error) => peer::of_tls(error, &device.clock),
                AttemptError::Tunnel(error @ ConnectError::Refused { status, .. }) if status.is_client_error() => {
                    Some(Distrust::OfDevice(error.to_string()))
                }
                _ => None,
            })
        }
        _ => None,
    };
    match (distrust, error) {
        (Some(distrust), _) => failure(distrust),
        (None, error @ (NetworkError::Firewall(_) | NetworkError::Kernel(_))) => {
            ConnectFailure::Local(error.to_string())
        }
        (None, error) => ConnectFailure::Unreachable(error.to_string()),
    }
}

/// In the words of the state machine.
pub(super) fn failure(distrust: Distrust) -> ConnectFailure {
    match distrust {
        Distrust::OfServer(text) => ConnectFailure::Untrusted(text),
        Distrust::OfDevice(text) => ConnectFailure::Refused(text),
    }
}
