//! Opens a link of a tunnel.

use std::net::SocketAddr;
use std::sync::Arc;

use m2m_identity::tls::{ClientTls, client_config};
use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::carrier::Way;
use m2m_tunnel::client::ConnectError;
use m2m_tunnel::quic;

use super::super::device::{Device, Member};
use crate::network::firewall::Opening;
use crate::network::race::{AttemptError, ConnectError as NoConnection};
use crate::network::{GatewayConnection, Network, NetworkError};
use crate::peer::{self, Distrust};
use crate::roaming::Transport;
use crate::state::ConnectFailure;

/// A link that the gateway has let in.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) way: Way,
    pub(super) remote: SocketAddr,
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
    let connected = match transport {
        Transport::Http3 => {
            let config = quic_config(&device, &member)?;
            network.connect_gateway(&gateway, config, uplink.as_deref()).await
        }
        Transport::Http2 => {
            return Err(ConnectFailure::Unreachable("HTTP/2 is not there".to_owned()));
        }
    };
    let connected = connected.map_err(|error| signing_failed(&member).unwrap_or_else(|| no_connection(error, &device)));
    let GatewayConnection { mut hub, handle, remote, opening } = connected?;
    device.clock.believe();
    let packet_size = hub.session(handle).map_or(0, |session| session.max_packet_size());
    Ok(Opened { way: Way::Http3(Box::new(hub), handle), remote, packet_size, opening })
}

fn quic_config(device: &Device, member: &Member) -> Result<m2m_tunnel::hub::ClientConfig, ConnectFailure> {
    let tls = client_config(ClientTls {
        anchors: &member.anchors,
        identity: Some(&member.identity),
        alpn: &[b"h3"],
        clock: device.clock.provider(),
    })
    .map_err(|error| ConnectFailure::Identity(error.to_string()))?;
    quic::client_config(tls, quic::client_transport(quic::IDLE_TIMEOUT))
        .map_err(|error| ConnectFailure::Local(error.to_string()))
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

