//! One tunnel, from the first packet to the gateway until its end.

use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use m2m_identity::tls::{ClientTls, client_config};
use m2m_protocol::device_config::Families;
use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::capsule::{AssignedAddress, RequestedAddress};
use m2m_tunnel::carrier::{self, LinkId, Notice, Policy, Way};
use m2m_tunnel::client::ConnectError;
use m2m_tunnel::routes::IpRange;
use m2m_tunnel::session::{self, CloseReason};
use m2m_tunnel::{quic, tun::Tun};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until, timeout};

use super::device::{Device, Member, SMALLEST_MTU};
use super::tasks::{Stop, send};
use crate::network::race::{AttemptError, ConnectError as NoConnection};
use crate::network::firewall::Opening;
use crate::network::{GatewayConnection, Network, NetworkError, Tunnel};
use crate::peer::{self, Distrust};
use crate::state::{Attempt, ConnectFailure, Event};

/// The one link of a tunnel.
const LINK: LinkId = LinkId(0);
/// Silence after which the gateway is pinged.
const KEEPALIVE: Duration = Duration::from_secs(25);
/// How long the gateway may take to assign addresses and advertise routes.
const SETUP: Duration = Duration::from_secs(15);
/// How long the farewell may take to leave the machine: it is sent at once, and nobody waits for an answer.
const FAREWELL: Duration = Duration::from_millis(100);
/// The largest packet of most machines' applications.
const LARGEST_MTU: usize = 1500;

/// Opens a tunnel to `gateway` and carries packets until it ends or is stopped, and tells of it.
pub(super) async fn run(
    device: &Arc<Device>,
    attempt: Attempt,
    gateway: &HttpsOrigin,
    events: &mpsc::Sender<Event>,
    mut stop: Stop,
) {
    let opened = tokio::select! {
        () = stop.requested() => return,
        opened = Opened::open(device, gateway) => opened,
    };
    let event = match opened {
        Err(failure) => Event::TunnelFailed { attempt, failure },
        Ok(opened) => match opened.carry(attempt, events, &mut stop).await {
            End::Stopped => return,
            End::Failed(failure) => Event::TunnelFailed { attempt, failure },
            End::Lost(reason) => Event::TunnelDown { attempt, reason },
        },
    };
    send(events, event).await;
}

/// A session that the gateway has let in.
struct Opened {
    device: Arc<Device>,
    member: Arc<Member>,
    network: Arc<Network>,
    way: Option<Way>,
    remote: SocketAddr,
    /// The largest packet in bytes that the link carries.
    packet_size: usize,
    _opening: Opening,
}

enum End {
    Stopped,
    /// Before it was up.
    Failed(ConnectFailure),
    /// After it was up.
    Lost(String),
}

impl Opened {
    async fn open(device: &Arc<Device>, gateway: &HttpsOrigin) -> Result<Self, ConnectFailure> {
        let Some(member) = device.member() else {
            return Err(ConnectFailure::Identity("there is no key and certificate".to_owned()));
        };
        let certificate = &member.certificate;
        if certificate.is_expired(device.clock.now()) {
            let text = format!("this device's certificate ended at {}", certificate.not_after);
            return Err(ConnectFailure::Expired(text));
        }
        let config = quic_config(device, &member)?;
        let network = device.network().await.map_err(|error| ConnectFailure::Local(error.to_string()))?;
        member.key.take_failure();
        let connection = network
            .connect_gateway(gateway, config)
            .await
            .map_err(|error| signing_failed(&member).unwrap_or_else(|| no_connection(error, device)))?;
        device.clock.believe();
        let GatewayConnection { mut hub, handle, remote, opening } = connection;
        let packet_size = hub.session(handle).map_or(0, |session| session.max_packet_size());
        let way = Some(Way::Http3(Box::new(hub), handle));
        Ok(Self { device: Arc::clone(device), member, network, way, remote, packet_size, _opening: opening })
    }

    async fn carry(mut self, attempt: Attempt, events: &mpsc::Sender<Event>, stop: &mut Stop) -> End {
        match self.device.interface() {
            Ok(tun) => self.carry_over(&tun, attempt, events, stop).await,
            Err(error) => End::Failed(ConnectFailure::Local(error.to_string())),
        }
    }

    async fn carry_over(
        &mut self,
        tun: &Arc<Tun>,
        attempt: Attempt,
        events: &mpsc::Sender<Event>,
        stop: &mut Stop,
    ) -> End {
        let (Some(way), Some(mut carrier)) = (self.way.take(), Carrier::start(tun, self.device.board.counters())) else {
            return End::Failed(ConnectFailure::Local("the interface has no queue".to_owned()));
        };
        carrier.tell(carrier::Command::Add(LINK, way));
        carrier.tell(carrier::Command::Activate(LINK));
        carrier.tell(carrier::Command::Keepalive(LINK, Some(KEEPALIVE)));
        carrier.tell(carrier::Command::RequestAddresses(LINK, requests(self.member.tunnel.families)));
        let end = self.follow(tun, &mut carrier, attempt, events, stop).await;
        carrier.stop().await;
        end
    }

    async fn follow(
        &mut self,
        tun: &Arc<Tun>,
        carrier: &mut Carrier,
        attempt: Attempt,
        events: &mpsc::Sender<Event>,
        stop: &mut Stop,
    ) -> End {
        let mut addresses: Option<Vec<AssignedAddress>> = None;
        let mut routes: Option<Vec<IpRange>> = None;
        let mut up = false;
        let limit = Instant::now() + SETUP;
        loop {
            let event = tokio::select! {
                () = stop.requested() => return End::Stopped,
                () = setup_is_over(limit, up) => {
                    let missing = if addresses.is_none() { "address" } else { "route" };
                    let text = format!("the gateway gave no {missing} within {} seconds", SETUP.as_secs());
                    return End::Failed(ConnectFailure::Unreachable(text));
                }
                notice = carrier.notices.recv() => match notice {
                    Some(Notice::Link(_, event)) => event,
                    Some(Notice::Wanted) => continue,
                    None => return ended(up, carrier.end().await),
                },
            };
            match event {
                session::Event::AddressesAssigned(assigned) => {
                    addresses = Some(self.of_wanted_families(assigned));
                }
                session::Event::RoutesAdvertised(ranges) => routes = Some(ranges),
                session::Event::PacketSize(size) => self.packet_size = size,
                session::Event::GoAway => {
                    send(events, Event::GatewayLeaves { attempt }).await;
                    continue;
                }
                session::Event::Closed(reason) => return self.closed(up, &reason),
                // The gateway has no use for an address from a device.
                _ => continue,
            }
            let (Some(assigned), Some(advertised)) = (&addresses, &routes) else { continue };
            let granted: Vec<IpNet> = assigned.iter().filter(|one| !one.is_refusal()).map(|one| one.prefix).collect();
            if granted.is_empty() {
                let text = "the gateway has no address for this device".to_owned();
                return if up { End::Lost(text) } else { End::Failed(ConnectFailure::Refused(text)) };
            }
            if let Err(error) = self.apply(tun, &granted, advertised).await {
                return if up { End::Lost(error) } else { End::Failed(ConnectFailure::Local(error)) };
            }
            carrier.tell(carrier::Command::Policy(Policy::from_assigned(assigned)));
            if !up {
                up = true;
                log::info!("tunnel up through {} ({})", self.remote, tun.name());
                send(events, Event::TunnelUp { attempt }).await;
            }
        }
    }

    async fn apply(&self, tun: &Tun, addresses: &[IpNet], advertised: &[IpRange]) -> Result<(), String> {
        let wanted = &self.member.tunnel;
        let fits = self.packet_size.min(LARGEST_MTU);
        let tunnel = Tunnel {
            addresses: addresses.to_vec(),
            advertised: advertised.to_vec(),
            wanted: wanted.routes.clone(),
            excluded: Vec::new(),
            dns: wanted.dns.clone(),
            mtu: u16::try_from(fits).unwrap_or(SMALLEST_MTU).max(SMALLEST_MTU),
        };
        let applied = self.network.apply(tun.index(), &tunnel).await.map_err(|error| error.to_string())?;
        let news = format!("addresses {}; routes {}", list(&applied.addresses), list(&applied.routes));
        if self.device.board.set_tunnel(applied) {
            log::info!("{news}");
        }
        Ok(())
    }

    fn of_wanted_families(&self, assigned: Vec<AssignedAddress>) -> Vec<AssignedAddress> {
        let Families { ipv4, ipv6 } = self.member.tunnel.families;
        assigned.into_iter().filter(|one| if one.prefix.addr().is_ipv4() { ipv4 } else { ipv6 }).collect()
    }

    /// What the end of the session means. A gateway that checks certificates after the handshake closes the connection
    /// where a session had begun already.
    fn closed(&self, up: bool, reason: &CloseReason) -> End {
        if up {
            return End::Lost(reason.to_string());
        }
        match peer::of_tunnel(reason, &self.device.clock) {
            Some(distrust) => End::Failed(failure(distrust)),
            None => End::Failed(ConnectFailure::Unreachable(reason.to_string())),
        }
    }
}

/// The task that moves packets; it ends with this.
struct Carrier {
    commands: Option<mpsc::UnboundedSender<carrier::Command>>,
    notices: mpsc::UnboundedReceiver<Notice>,
    task: JoinHandle<carrier::End>,
}

impl Carrier {
    fn start(tun: &Tun, counters: Arc<carrier::Counters>) -> Option<Self> {
        let queue = tun.queues().into_iter().next()?;
        let (commands, heard) = mpsc::unbounded_channel();
        let (told, notices) = mpsc::unbounded_channel();
        let task = tokio::spawn(carrier::run(queue, heard, told, counters));
        Some(Self { commands: Some(commands), notices, task })
    }

    fn tell(&self, command: carrier::Command) {
        // A carrier that has ended says so by its notices.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
    }

    async fn end(&mut self) -> String {
        match (&mut self.task).await {
            Ok(end) => end.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Says farewell to the gateway.
    async fn stop(mut self) {
        self.commands = None;
        let _ = timeout(FAREWELL, &mut self.task).await;
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ended(up: bool, reason: String) -> End {
    if up { End::Lost(reason) } else { End::Failed(ConnectFailure::Unreachable(reason)) }
}

async fn setup_is_over(limit: Instant, up: bool) {
    if up {
        pending::<()>().await;
    }
    sleep_until(limit).await;
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

/// One request for each family that is wanted.
fn requests(families: Families) -> Vec<RequestedAddress> {
    let any: [(bool, IpNet); 2] = [
        (families.ipv4, std::net::Ipv4Addr::UNSPECIFIED.into()),
        (families.ipv6, std::net::Ipv6Addr::UNSPECIFIED.into()),
    ]
    .map(|(wanted, address): (bool, std::net::IpAddr)| (wanted, IpNet::from(address)));
    let wanted = any.into_iter().filter_map(|(wanted, prefix)| wanted.then_some(prefix));
    wanted.zip(1..).map(|(prefix, request_id)| RequestedAddress { request_id, prefix }).collect()
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

fn failure(distrust: Distrust) -> ConnectFailure {
    match distrust {
        Distrust::OfServer(text) => ConnectFailure::Untrusted(text),
        Distrust::OfDevice(text) => ConnectFailure::Refused(text),
    }
}

fn list(addresses: &[IpNet]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
