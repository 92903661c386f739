//! The addresses of gateway and manager, asked from the uplink's resolvers.
//!
//! Only the names that it is given are asked for: no search domains, no hosts file. Nothing is cached, so that a moved server is found
//! at the next attempt; but the last good answer is kept in memory and used when the resolvers are silent or deny the name, so that a
//! broken DNS does not keep a device from coming back. Whether the address is the right one is TLS's to prove.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ServerOrderingStrategy,
};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime};
use hickory_resolver::proto::rr::Name;
use tokio::net::{TcpStream, UdpSocket};
use url::Host;

use super::socket;

/// How long a resolver may take before the next one is asked.
const SERVER_TIME_LIMIT: Duration = Duration::from_secs(2);

/// How long all of it may take when there is no former answer to fall back to.
const TIME_LIMIT: Duration = Duration::from_secs(10);

/// How long all of it may take when there is one: a device is to come back fast.
const TIME_LIMIT_WITH_FALLBACK: Duration = Duration::from_secs(4);

/// Finds addresses, and remembers the last good ones.
#[derive(Debug, Default)]
pub struct NameResolver {
    last_good: Mutex<HashMap<String, Vec<IpAddr>>>,
}

impl NameResolver {
    /// The addresses of `host`, asked from `resolvers` over marked sockets; not empty. An address is its own answer.
    ///
    /// # Errors
    /// [`ResolveError`].
    pub async fn addresses(&self, host: &Host<String>, resolvers: &[SocketAddr]) -> Result<Vec<IpAddr>, ResolveError> {
        let name = match host {
            Host::Ipv4(address) => return Ok(vec![IpAddr::V4(*address)]),
            Host::Ipv6(address) => return Ok(vec![IpAddr::V6(*address)]),
            Host::Domain(name) => name,
        };
        let remembered = self.remembered(name);
        let time_limit = if remembered.is_some() { TIME_LIMIT_WITH_FALLBACK } else { TIME_LIMIT };
        let error = match ask(name, resolvers, time_limit).await {
            Ok(addresses) => {
                self.remember(name, &addresses);
                return Ok(addresses);
            }
            Err(error) => error,
        };
        let Some(addresses) = remembered else { return Err(error) };
        log::warn!("{error}; using the addresses that it had before");
        Ok(addresses)
    }

    fn remember(&self, name: &str, addresses: &[IpAddr]) {
        let mut last_good = self.last_good.lock().unwrap_or_else(PoisonError::into_inner);
        last_good.insert(name.to_owned(), addresses.to_vec());
    }

    fn remembered(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.last_good.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The uplink has no resolver.
    #[error("cannot resolve {name}: the uplink has named no DNS server (yet)")]
    NoResolver {
        /// The name.
        name: String,
    },
    /// The resolvers say that the name has no address.
    #[error("{name} has no address, the uplink's DNS server says")]
    NoAddress {
        /// The name.
        name: String,
    },
    /// The resolvers did not answer.
    #[error("cannot resolve {name}: {reason}")]
    Failed {
        /// The name.
        name: String,
        /// What happened.
        reason: String,
    },
}

async fn ask(name: &str, resolvers: &[SocketAddr], time_limit: Duration) -> Result<Vec<IpAddr>, ResolveError> {
    let failed = |reason: String| ResolveError::Failed { name: name.to_owned(), reason };
    if resolvers.is_empty() {
        return Err(ResolveError::NoResolver { name: name.to_owned() });
    }
    let mut fully_qualified = Name::from_ascii(name).map_err(|error| failed(error.to_string()))?;
    fully_qualified.set_fqdn(true);

    let servers = resolvers.iter().map(|resolver| NameServerConfig::udp_and_tcp(resolver.ip())).collect();
    let mut builder =
        Resolver::builder_with_config(ResolverConfig::from_name_servers(servers), MarkedSockets::new(resolvers));
    let options = builder.options_mut();
    options.timeout = SERVER_TIME_LIMIT;
    options.attempts = 2;
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options.try_tcp_on_error = true;
    let resolver = builder.build().map_err(|error| failed(error.to_string()))?;

    let lookup = match tokio::time::timeout(time_limit, resolver.lookup_ip(fully_qualified)).await {
        Err(_) => {
            return Err(failed(format!("no answer in {} seconds from {}", time_limit.as_secs(), list(resolvers))));
        }
        Ok(Err(error)) if error.is_no_records_found() => return Err(ResolveError::NoAddress { name: name.to_owned() }),
        Ok(Err(error)) => return Err(failed(format!("{error} (asked {})", list(resolvers)))),
        Ok(Ok(lookup)) => lookup,
    };
    let addresses: Vec<IpAddr> = lookup.iter().collect();
    if addresses.is_empty() {
        return Err(ResolveError::NoAddress { name: name.to_owned() });
    }
    Ok(addresses)
}

fn list(resolvers: &[SocketAddr]) -> String {
    let texts: Vec<String> = resolvers.iter().map(|resolver| resolver.ip().to_string()).collect();
    texts.join(", ")
}

/// What hickory opens its sockets with. It knows servers by their address only, so the scopes of link-local ones are kept here.
#[derive(Clone)]
struct MarkedSockets {
    handle: TokioHandle,
    scopes: Arc<HashMap<Ipv6Addr, u32>>,
}

impl MarkedSockets {
    fn new(resolvers: &[SocketAddr]) -> Self {
        let scopes = resolvers.iter().filter_map(|resolver| match resolver {
            SocketAddr::V6(resolver) if resolver.scope_id() != 0 => Some((*resolver.ip(), resolver.scope_id())),
            _ => None,
        });
        Self { handle: TokioHandle::default(), scopes: Arc::new(scopes.collect()) }
    }
}

impl RuntimeProvider for MarkedSockets {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = ScopedUdp;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.handle.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _local: Option<SocketAddr>,
        time_limit: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let server = with_scope(&self.scopes, server);
        Box::pin(async move {
            let connect = tokio::time::timeout(time_limit.unwrap_or(SERVER_TIME_LIMIT), socket::tcp(server, None));
            Ok(AsyncIoTokioAsStd(connect.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??))
        })
    }

    fn bind_udp(
        &self,
        local: SocketAddr,
        _server: SocketAddr,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Udp>>>> {
        let scopes = Arc::clone(&self.scopes);
        Box::pin(async move { Ok(ScopedUdp { socket: UdpSocket::from_std(socket::udp(local)?)?, scopes }) })
    }
}

/// A UDP socket that adds the scope of link-local servers.
struct ScopedUdp {
    socket: UdpSocket,
    scopes: Arc<HashMap<Ipv6Addr, u32>>,
}

impl DnsUdpSocket for ScopedUdp {
    type Time = TokioTime;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        DnsUdpSocket::poll_recv_from(&self.socket, cx, buffer)
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, buffer: &[u8], target: SocketAddr) -> Poll<io::Result<usize>> {
        DnsUdpSocket::poll_send_to(&self.socket, cx, buffer, with_scope(&self.scopes, target))
    }
}

fn with_scope(scopes: &HashMap<Ipv6Addr, u32>, server: SocketAddr) -> SocketAddr {
    let SocketAddr::V6(mut server) = server else { return server };
    if let Some(scope) = scopes.get(server.ip()) {
        server.set_scope_id(*scope);
    }
    SocketAddr::V6(server)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_is_its_own_answer() {
        let resolver = NameResolver::default();
        let host = Host::parse("[2001:db8::1]").unwrap();
        assert_eq!(resolver.addresses(&host, &[]).await.unwrap(), ["2001:db8::1".parse::<IpAddr>().unwrap()]);
        let host = Host::parse("192.0.2.1").unwrap();
        assert_eq!(resolver.addresses(&host, &[]).await.unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[tokio::test]
    async fn no_resolver_is_told_unless_the_name_is_known() {
        let resolver = NameResolver::default();
        let host = Host::parse("gateway.example").unwrap();
        let error = resolver.addresses(&host, &[]).await.unwrap_err();
        assert_eq!(error, ResolveError::NoResolver { name: "gateway.example".to_owned() });
        resolver.remember("gateway.example", &["192.0.2.1".parse().unwrap()]);
        assert_eq!(resolver.addresses(&host, &[]).await.unwrap(), ["192.0.2.1".parse::<IpAddr>().unwrap()]);
    }

    #[test]
    fn link_local_servers_get_their_scope() {
        let scopes =
            MarkedSockets::new(&["[fe80::1%3]:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]).scopes;
        assert_eq!(with_scope(&scopes, "[fe80::1]:53".parse().unwrap()), "[fe80::1%3]:53".parse().unwrap());
        assert_eq!(with_scope(&scopes, "[2001:db8::1]:53".parse().unwrap()), "[2001:db8::1]:53".parse().unwrap());
    }
}
