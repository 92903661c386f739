//! The machine's network, as far as the tunnel is concerned.
//!
//! [`Network`] is what the daemon uses; the modules below it each do one thing:
//!
//! | module | what it does |
//! |---|---|
//! | [`mark`] | the numbers by which the daemon's own packets are told from all others |
//! | [`socket`] | sockets whose packets carry the mark |
//! | [`endpoint`] | QUIC connections over a marked socket, the fastest of several addresses |
//! | [`resolver`] | the addresses of gateway and manager, asked from the uplink's resolvers |
//! | [`uplink_dns`] | who the uplink's resolvers are |
//! | [`firewall`] | opens the packet filter for gateway, manager and resolvers, and for nobody else |
//! | [`plan`] | which addresses and routes a tunnel needs, without I/O |
//! | [`interface`], [`routes`] | put such a plan into the kernel |
//! | [`dns`] | the machine's name resolution through the tunnel, by systemd-resolved |
//! | [`uplinks`] | tells when the machine's way to the internet changes |
//!
//! # How packets are told apart
//! The daemon's own packets carry the firewall mark [`mark::MARK`] and follow the machine's main routing table. A rule for all
//! other packets puts the table [`mark::TABLE`], where the tunnel's routes are, before the main one. So the tunnel never
//! runs through itself, no route of the machine is touched, and whatever ends the daemon leaves the machine's routing as it was.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;
use m2m_protocol::device_config::Dns;
use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::routes::IpRange;
use tokio::net::TcpStream;

pub mod dns;
pub mod endpoint;
pub mod firewall;
pub mod interface;
pub mod mark;
pub mod plan;
pub mod resolver;
pub mod routes;
pub mod socket;
pub mod uplink_dns;
pub mod uplinks;

use endpoint::ConnectError;
use firewall::{Firewall, FirewallError, Opening};
use resolver::ResolveError;
use uplink_dns::UplinkDns;
use uplinks::Uplinks;

/// How this machine is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the uplink's resolvers are learned from.
    pub resolvers: UplinkDns,
    /// The packet filter whose sets are to be filled.
    pub firewall: Firewall,
    /// Who resolves names for the machine's programs.
    pub dns: dns::Backend,
}

/// What the machine's network is to be while a tunnel is up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tunnel {
    /// The addresses that the gateway assigned.
    pub addresses: Vec<IpNet>,
    /// The ranges that the gateway advertised.
    pub advertised: Vec<IpRange>,
    /// The destinations wanted through the tunnel; empty means all that are advertised.
    pub wanted: Vec<IpNet>,
    /// Destinations that keep out of the tunnel although they are advertised and wanted, such as a time server on the uplink.
    pub excluded: Vec<IpNet>,
    /// The company's resolvers and search domains.
    pub dns: Dns,
    /// The interface's largest packet in bytes.
    pub mtu: u16,
}

/// What [`Network::apply`] has put in place, for the status.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// The interface's addresses.
    pub addresses: Vec<IpNet>,
    /// The destinations that go through the tunnel.
    pub routes: Vec<IpNet>,
    /// The resolvers that are asked through the tunnel.
    pub dns: Vec<IpAddr>,
}

/// A fresh QUIC connection to a gateway.
#[derive(Debug)]
pub struct GatewayConnection {
    /// The connection.
    pub connection: quinn::Connection,
    /// Its endpoint, for [`quinn::Endpoint::rebind_abstract`] and [`quinn::Endpoint::wait_idle`].
    pub endpoint: quinn::Endpoint,
    /// The address that answered.
    pub remote: SocketAddr,
    /// Keeps the firewall open for the address: drop it with the connection.
    pub opening: Opening,
}

/// The machine's network.
#[derive(Debug)]
pub struct Network {}

impl Network {
    /// Takes over: opens netlink, removes what a crashed process left behind, installs the routing rules.
    ///
    /// # Errors
    /// [`NetworkError`], above all without CAP_NET_ADMIN.
    pub async fn start(_settings: Settings) -> Result<Self, NetworkError> {
        todo!()
    }

    /// Connects to the manager: resolves its name, opens the firewall, tries its addresses (RFC 8305). Bounded to about 30 seconds.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn connect_manager(&self, _origin: &HttpsOrigin) -> Result<TcpStream, NetworkError> {
        todo!()
    }

    /// Connects to a gateway: resolves its name, opens the firewall, tries its addresses (RFC 8305). The connection's handshake is
    /// complete. Bounded to about 30 seconds.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn connect_gateway(
        &self,
        _origin: &HttpsOrigin,
        _config: quinn::ClientConfig,
    ) -> Result<GatewayConnection, NetworkError> {
        todo!()
    }

    /// Makes the network what `tunnel` says, on the interface with this index: MTU, addresses, link up, routes, DNS. What was applied
    /// before and is no longer wanted is removed; what stays is not touched. Call it again at each new assignment or
    /// advertisement.
    ///
    /// # Errors
    /// [`NetworkError`]. A failed call may be repeated.
    pub async fn apply(&self, _interface: u32, _tunnel: &Tunnel) -> Result<Applied, NetworkError> {
        todo!()
    }

    /// Takes back what [`apply`](Self::apply) did: routes, addresses, DNS. The interface may be gone already.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn clear(&self) -> Result<(), NetworkError> {
        todo!()
    }

    /// Follows the machine's ways to the internet.
    #[must_use]
    pub fn uplinks(&self) -> tokio::sync::watch::Receiver<Uplinks> {
        todo!()
    }

    /// Takes everything back, the routing rules included. The firewall stays as it is.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn stop(self) -> Result<(), NetworkError> {
        todo!()
    }
}

/// What went wrong with the network.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// No address for a name.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// The packet filter could not be opened.
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    /// No address answered.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The kernel refused an address, route or rule.
    #[error(transparent)]
    Kernel(#[from] interface::KernelError),
    /// The machine's name resolution could not be set.
    #[error(transparent)]
    Dns(#[from] dns::DnsError),
}
