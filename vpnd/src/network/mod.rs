//! The machine's network, as far as the tunnel is concerned.
//!
//! [`Network`] is what the daemon uses; the modules below it each do one thing:
//!
//! | module | what it does |
//! |---|---|
//! | [`mark`] | the numbers by which the daemon's own packets are told from all others |
//! | [`socket`] | sockets whose packets carry the mark |
//! | [`race`] | the fastest of several addresses wins |
//! | [`endpoint`], [`stream`] | tunnels over a marked socket, QUIC and TCP |
//! | [`resolver`] | the addresses of gateway and manager, asked from the uplink's resolvers |
//! | [`uplink_dns`] | who the uplink's resolvers are |
//! | [`firewall`] | opens the packet filter for gateway, manager and resolvers, and for nobody else |
//! | [`plan`] | which addresses and routes a tunnel needs, without I/O |
//! | [`interface`], [`routes`], [`kernel`] | put such a plan into the kernel |
//! | `rule_guard` | puts the routing rules back when somebody removes them |
//! | [`dns`] | the machine's name resolution through the tunnel, by systemd-resolved |
//! | [`uplinks`] | tells when the machine's way to the internet changes |
//!
//! # How packets are told apart
//! The daemon's own packets carry the firewall mark [`mark::MARK`] and follow the machine's main routing table. A rule for all
//! other packets puts the table [`mark::TABLE`], where the tunnel's routes are, before the main one. So the tunnel never
//! runs through itself, no route of the machine is touched, and whatever ends the daemon leaves the machine's routing as it was.
//!
//! Reverse path filtering has to be off or loose (`net.ipv4.conf.*.rp_filter` 0 or 2, systemd's default): the strict kind looks answers
//! up without their mark, finds the tunnel, and drops them.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use ipnet::IpNet;
use m2m_protocol::device_config::Dns;
use m2m_protocol::names::HttpsOrigin;
use m2m_tunnel::client::ConnectRequest;
use m2m_tunnel::http2::Http2Tunnel;
use m2m_tunnel::hub::{ClientConfig, ConnectionHandle, Hub};
use m2m_tunnel::routes::IpRange;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinSet;

pub mod dns;
pub mod endpoint;
pub mod firewall;
pub mod interface;
pub mod kernel;
pub mod mark;
pub mod plan;
pub mod race;
pub mod resolver;
pub mod routes;
mod rule_guard;
pub mod socket;
pub mod stream;
pub mod uplink_dns;
pub mod uplinks;

use dns::DnsError;
use firewall::{Firewall, FirewallError, Gate, Opening};
use kernel::KernelError;
use plan::{Plan, TooManyRoutes};
use race::ConnectError;
use resolver::{NameResolver, ResolveError};
use stream::ProxyServer;
use uplink_dns::UplinkDns;
use uplinks::{Uplinks, Ways};

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
    /// The company's resolvers and search domains. The resolvers are reached through the tunnel, advertised or not.
    pub dns: Dns,
    /// The interface's largest packet in bytes. Below 1280 there is no IPv6 in the tunnel.
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
    /// Why the machine's name resolution was not set, if it was not. The tunnel works without, by addresses; applying again tries again.
    pub dns_problem: Option<DnsError>,
}

/// A tunnel that a gateway has opened.
#[derive(Debug)]
pub struct GatewayConnection<Tunnel> {
    /// The tunnel.
    pub tunnel: Tunnel,
    /// The address that answered.
    pub remote: SocketAddr,
    /// Keeps the firewall open for that address: keep it as long as the connection, and no longer.
    pub opening: Opening,
}

/// The machine's network. All methods may be called from any task at any time.
///
/// Dropping it ends its tasks and leaves the kernel as it is; [`stop`](Self::stop) takes everything back.
#[derive(Debug)]
pub struct Network {
    settings: Settings,
    netlink: rtnetlink::Handle,
    resolver: NameResolver,
    gate: Gate,
    applied: Mutex<Option<AppliedTo>>,
    /// The resolvers inside the tunnel, which no marked packet reaches.
    inner_resolvers: std::sync::Mutex<Vec<IpAddr>>,
    uplinks: watch::Receiver<Uplinks>,
    rule_guard: Mutex<JoinSet<()>>,
    /// Netlink and the watch of the uplinks; aborted on drop.
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct AppliedTo {
    interface: u32,
    dns: Dns,
    dns_set: bool,
}

impl Network {
    /// Takes over: opens netlink, removes routes that a crashed process left behind, installs the routing rules.
    ///
    /// # Errors
    /// [`NetworkError::Kernel`], above all without CAP_NET_ADMIN.
    pub async fn start(settings: Settings) -> Result<Self, NetworkError> {
        let mut tasks = JoinSet::new();
        let (connection, netlink, _) = rtnetlink::new_connection().map_err(|error| KernelError::socket(&error))?;
        tasks.spawn(connection);
        routes::remove_routes(&netlink).await?;
        routes::install_rules(&netlink).await?;

        let ways = Ways::read(&netlink).await?;
        let (sender, uplinks) = watch::channel(ways.uplinks(0));
        tasks.spawn(uplinks::watch(sender, ways));
        let mut rule_guard = JoinSet::new();
        rule_guard.spawn(rule_guard::guard());
        Ok(Self {
            gate: Gate::new(settings.firewall),
            settings,
            netlink,
            resolver: NameResolver::default(),
            applied: Mutex::default(),
            inner_resolvers: std::sync::Mutex::default(),
            uplinks,
            rule_guard: Mutex::new(rule_guard),
            _tasks: tasks,
        })
    }

    /// Connects to the manager: resolves its name, opens the firewall, tries its addresses (RFC 8305). Takes at most some 25 seconds.
    /// The firewall stays open for these addresses until the next call.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn connect_manager(&self, origin: &HttpsOrigin) -> Result<TcpStream, NetworkError> {
        let addresses = self.resolve(origin).await?;
        self.gate.open_for_manager(addresses.iter().map(SocketAddr::ip).collect(), origin.port()).await?;
        let (_, stream) =
            race::race(&origin.authority(), &addresses, |address| async move { Ok(socket::tcp(address, None).await?) })
                .await?;
        Ok(stream)
    }

    /// Opens a tunnel to a gateway: resolves its name, opens the firewall, tries its addresses (RFC 8305). Takes at most some 25 seconds.
    /// The firewall stays open for gateways that are in use already. `uplink` is the network interface to use; without one the kernel's
    /// routes decide.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn connect_gateway(
        &self,
        origin: &HttpsOrigin,
        config: ClientConfig,
        uplink: Option<&str>,
    ) -> Result<GatewayConnection<(Hub, ConnectionHandle)>, NetworkError> {
        self.gate.lets_gateways_out_on(origin.port())?;
        let addresses = self.resolve(origin).await?;
        let candidates: BTreeSet<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let mut opening = self.gate.open_for_gateway(candidates).await?;
        let request = ConnectRequest::new(origin.authority());
        let endpoint::Opened { hub, handle, remote } =
            endpoint::connect(&addresses, &origin.server_name(), request, config, uplink).await?;
        opening.narrow(remote.ip());
        Ok(GatewayConnection { tunnel: (hub, handle), remote, opening })
    }

    /// As [`connect_gateway`](Self::connect_gateway), over TCP, and through a proxy if there is one. The address is the one that is used on
    /// this machine.
    ///
    /// # Errors
    /// [`NetworkError`].
    pub async fn connect_gateway_over_tcp(
        &self,
        origin: &HttpsOrigin,
        tls: Arc<rustls::ClientConfig>,
        proxy: Option<&ProxyServer>,
        uplink: Option<&str>,
    ) -> Result<GatewayConnection<(Http2Tunnel, IpAddr)>, NetworkError> {
        let (addresses, mut opening) = match proxy {
            None => {
                self.gate.lets_gateways_out_on(origin.port())?;
                let addresses = self.resolve(origin).await?;
                let candidates = addresses.iter().map(SocketAddr::ip).collect();
                (addresses, self.gate.open_for_gateway(candidates).await?)
            }
            Some(proxy) => {
                let addresses = self.resolve_host(&proxy.host, proxy.port).await?;
                self.gate.open_for_proxy(addresses.iter().copied().collect()).await?;
                (addresses, self.gate.open_for_gateway(BTreeSet::new()).await?)
            }
        };
        let (remote, tunnel) = stream::connect(&addresses, origin, tls, proxy, uplink).await?;
        if proxy.is_none() {
            opening.narrow(remote.ip());
        }
        Ok(GatewayConnection { tunnel, remote, opening })
    }

    /// Makes the network what `tunnel` says, on the interface with this index: MTU, addresses, link up, routes, DNS. What was applied
    /// before and is no longer wanted is removed; what stays is not touched. Call it again at each new assignment or
    /// advertisement.
    ///
    /// # Errors
    /// [`NetworkError::Kernel`] and [`NetworkError::Routes`]. A failed call may be repeated.
    pub async fn apply(&self, interface: u32, tunnel: &Tunnel) -> Result<Applied, NetworkError> {
        let mut applied = self.applied.lock().await;
        let plan = Plan::new(tunnel)?;
        interface::set_up(&self.netlink, interface, tunnel.mtu, &plan.addresses).await?;
        routes::replace_routes(&self.netlink, interface, &plan.routes).await?;
        // Last, because routes have them as source.
        interface::remove_other_addresses(&self.netlink, interface, &plan.addresses).await?;
        self.set_inner_resolvers(&tunnel.dns.servers);

        let already =
            applied.as_ref().is_some_and(|was| was.interface == interface && was.dns == tunnel.dns && was.dns_set);
        let dns_problem = match already {
            true => None,
            false => self.settings.dns.set(interface, &tunnel.dns).await.err(),
        };
        if let Some(problem) = &dns_problem {
            log::warn!("names of the company's network cannot be resolved: {problem}");
        }
        *applied = Some(AppliedTo { interface, dns: tunnel.dns.clone(), dns_set: dns_problem.is_none() });
        let routes = plan.tunnel_routes();
        Ok(Applied { addresses: plan.addresses, routes, dns: tunnel.dns.servers.clone(), dns_problem })
    }

    /// Takes back what [`apply`](Self::apply) did: routes, addresses, DNS. The interface may be gone already.
    ///
    /// # Errors
    /// [`NetworkError::Kernel`] and [`NetworkError::Dns`]: the first thing that failed; the rest was tried nevertheless.
    pub async fn clear(&self) -> Result<(), NetworkError> {
        let mut applied = self.applied.lock().await;
        self.set_inner_resolvers(&[]);
        let routes = routes::remove_routes(&self.netlink).await;
        let Some(was) = applied.take() else { return Ok(routes?) };
        let addresses = interface::remove_other_addresses(&self.netlink, was.interface, &[]).await;
        let dns = self.settings.dns.revert(was.interface).await;
        routes?;
        addresses?;
        Ok(dns?)
    }

    /// Follows the machine's ways to the internet.
    #[must_use]
    pub fn uplinks(&self) -> watch::Receiver<Uplinks> {
        self.uplinks.clone()
    }

    /// Takes everything back, the routing rules included; the network is of no use after that. The firewall stays as it is: closed for
    /// all but the last ones in use.
    ///
    /// # Errors
    /// As [`clear`](Self::clear); the rules were removed nevertheless, as far as possible.
    pub async fn stop(&self) -> Result<(), NetworkError> {
        let cleared = self.clear().await;
        // Waits until the guard is gone: it would put the rules back.
        self.rule_guard.lock().await.shutdown().await;
        routes::remove_rules(&self.netlink).await?;
        cleared
    }

    /// The server's addresses in the order in which to try them.
    async fn resolve(&self, origin: &HttpsOrigin) -> Result<Vec<SocketAddr>, NetworkError> {
        self.resolve_host(origin.host(), origin.port()).await
    }

    async fn resolve_host(&self, host: &url::Host<String>, port: u16) -> Result<Vec<SocketAddr>, NetworkError> {
        let resolvers = match host {
            url::Host::Domain(_) => self.outer_resolvers(),
            _ => Vec::new(),
        };
        if !resolvers.is_empty() {
            self.gate.open_for_resolvers(resolvers.iter().map(SocketAddr::ip)).await?;
        }
        let addresses = self.resolver.addresses(host, &resolvers).await?;
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect();
        Ok(race::order(&addresses))
    }

    fn outer_resolvers(&self) -> Vec<SocketAddr> {
        let mut resolvers = self.settings.resolvers.resolvers();
        if self.settings.resolvers == UplinkDns::ResolvConf {
            // The machine's list of resolvers has the tunnel's among them.
            let inner = self.inner_resolvers.lock().unwrap_or_else(PoisonError::into_inner);
            resolvers.retain(|resolver| !inner.contains(&resolver.ip()));
        }
        resolvers
    }

    fn set_inner_resolvers(&self, servers: &[IpAddr]) {
        *self.inner_resolvers.lock().unwrap_or_else(PoisonError::into_inner) = servers.to_vec();
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
    Kernel(#[from] KernelError),
    /// The gateway advertised too much.
    #[error(transparent)]
    Routes(#[from] TooManyRoutes),
    /// The machine's name resolution could not be set back.
    #[error(transparent)]
    Dns(#[from] DnsError),
}
