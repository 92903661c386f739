//! The gateway's routes in the kernel, over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_core::ErrorMessage;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::{Error, Handle, RouteMessageBuilder};

use crate::config::Ranges;

use super::PROTOCOL;
use super::ledger::{Route, Target};

/// A netlink socket, open as long as this is there.
pub(super) struct Kernel {
    handle: Handle,
    interface: u32,
    connection: tokio::task::JoinHandle<()>,
}

impl Kernel {
    /// For routes to the tunnel interface with the index `interface`.
    ///
    /// # Errors
    /// When there is no socket.
    pub(super) fn connect(interface: u32) -> Result<Self, KernelError> {
        // The kernel selects the routes by protocol itself when it is strict.
        let socket = rtnetlink::new_connection_with_strict_check();
        let (connection, handle, _) = socket.map_err(KernelError::Socket)?;
        Ok(Self { handle, interface, connection: tokio::spawn(connection) })
    }

    /// The routes of the gateway's protocol: those to the tunnel interface, and those to nowhere.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) async fn routes(&self, ranges: &Ranges) -> Result<Vec<Route>, KernelError> {
        let mut found = Vec::new();
        for range in ranges.prefixes() {
            let mut query = RouteMessage::default();
            query.header.address_family = family(&range);
            query.header.table = RouteHeader::RT_TABLE_MAIN;
            query.header.protocol = RouteProtocol::Other(PROTOCOL);
            let list = self.handle.route().get(query).execute().try_collect::<Vec<_>>();
            let list = answered(list).await.map_err(|reason| KernelError::List { reason })?;
            found.extend(list.iter().filter_map(|message| self.route(message)));
        }
        Ok(found)
    }

    /// Adds a route.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) async fn add(&self, route: Route) -> Result<(), KernelError> {
        let request = self.handle.route().add(self.message(&route));
        answered(request.execute()).await.map_err(|reason| KernelError::Add { route, reason })
    }

    /// Removes a route, if it is there.
    ///
    /// # Errors
    /// [`KernelError`].
    pub(super) async fn remove(&self, route: Route) -> Result<(), KernelError> {
        let request = self.handle.route().del(self.message(&route));
        match answered(request.execute()).await {
            Err(reason) if reason.is_gone() => Ok(()),
            other => other.map_err(|reason| KernelError::Remove { route, reason }),
        }
    }

    fn message(&self, route: &Route) -> RouteMessage {
        let (prefix_length, priority) = (route.destination.prefix_len(), route.metric);
        let mut message = match route.destination.network() {
            IpAddr::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(network, prefix_length)
                .priority(priority)
                .build(),
            IpAddr::V6(network) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(network, prefix_length)
                .priority(priority)
                .build(),
        };
        message.header.protocol = RouteProtocol::Other(PROTOCOL);
        match route.target {
            Target::Tunnel => {
                message.attributes.push(RouteAttribute::Oif(self.interface));
                // An IPv4 route without a next hop is one to the link (ip-route(8)).
                if route.destination.addr().is_ipv4() {
                    message.header.scope = RouteScope::Link;
                }
            }
            Target::Nowhere => message.header.kind = RouteType::Unreachable,
        }
        message
    }

    /// `None` if it is not the gateway's.
    fn route(&self, message: &RouteMessage) -> Option<Route> {
        let (mut address, mut metric, mut interface) = (None, 0, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(found)) => address = Some(IpAddr::V4(*found)),
                RouteAttribute::Destination(RouteAddress::Inet6(found)) => address = Some(IpAddr::V6(*found)),
                RouteAttribute::Priority(found) => metric = *found,
                RouteAttribute::Oif(found) => interface = Some(*found),
                _ => {}
            }
        }
        let header = &message.header;
        if header.protocol != RouteProtocol::Other(PROTOCOL) || header.table != RouteHeader::RT_TABLE_MAIN {
            return None;
        }
        let target = match header.kind {
            RouteType::Unicast if interface == Some(self.interface) => Target::Tunnel,
            RouteType::Unreachable => Target::Nowhere,
            _ => return None,
        };
        let destination = IpNet::new(address?, header.destination_prefix_length).ok()?;
        Some(Route { destination, metric, target })
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// What is wrong with the routes to devices.
#[derive(Debug, thiserror::Error)]
pub(super) enum KernelError {
    /// No netlink socket.
    #[error("routes to devices: no netlink socket: {0}")]
    Socket(io::Error),
    /// Those that are there cannot be listed.
    #[error("routes to devices: cannot be listed: {reason}")]
    List {
        /// What the kernel said.
        reason: Reason,
    },
    /// One cannot be added.
    #[error("the route to {} cannot be added: {reason}", route.destination)]
    Add {
        /// Which one.
        route: Route,
        /// What the kernel said.
        reason: Reason,
    },
    /// One cannot be removed.
    #[error("the route to {} cannot be removed: {reason}", route.destination)]
    Remove {
        /// Which one.
        route: Route,
        /// What the kernel said.
        reason: Reason,
    },
}

/// What the kernel said.
#[derive(Debug, thiserror::Error)]
pub(super) enum Reason {
    /// An error number.
    #[error("{0}")]
    Refused(io::Error),
    /// The socket.
    #[error("{0}")]
    Netlink(Error),
    /// Nothing.
    #[error("no answer within {} s", ANSWER.as_secs())]
    Silent,
}

impl Reason {
    /// The route, or its interface, does not exist.
    fn is_gone(&self) -> bool {
        const ENOENT: i32 = 2;
        const ESRCH: i32 = 3;
        const ENODEV: i32 = 19;
        matches!(self, Self::Refused(error) if matches!(error.raw_os_error(), Some(ENOENT | ESRCH | ENODEV)))
    }
}

impl From<Error> for Reason {
    fn from(error: Error) -> Self {
        match error {
            Error::NetlinkError(ErrorMessage { code: Some(code), .. }) => {
                Self::Refused(io::Error::from_raw_os_error(-code.get()))
            }
            other => Self::Netlink(other),
        }
    }
}

/// A lost answer must not stop everything.
const ANSWER: Duration = Duration::from_secs(10);

async fn answered<T>(request: impl Future<Output = Result<T, Error>>) -> Result<T, Reason> {
    match tokio::time::timeout(ANSWER, request).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(Reason::Silent),
    }
}

fn family(range: &IpNet) -> AddressFamily {
    match range {
        IpNet::V4(_) => AddressFamily::Inet,
        IpNet::V6(_) => AddressFamily::Inet6,
    }
}
