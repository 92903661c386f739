//! The machine's name resolution through the tunnel, by systemd-resolved ([org.freedesktop.resolve1]).
//!
//! All names are asked from the company's resolvers: the routing-only domain `~.` on the tunnel's link takes them from every other
//! link. systemd-resolved forgets a link's settings when the link goes.
//!
//! [org.freedesktop.resolve1]: https://www.freedesktop.org/software/systemd/man/latest/org.freedesktop.resolve1.html

use std::net::IpAddr;
use std::time::Duration;

use m2m_protocol::device_config::Dns;
use serde::Serialize;
use zbus::Connection;
use zbus::zvariant::DynamicType;

/// How long systemd-resolved may take.
const TIME_LIMIT: Duration = Duration::from_secs(5);

const SERVICE: &str = "org.freedesktop.resolve1";
const PATH: &str = "/org/freedesktop/resolve1";
const INTERFACE: &str = "org.freedesktop.resolve1.Manager";

/// Who resolves names for the machine's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// systemd-resolved, over the system bus.
    Resolved,
    /// Nobody that is ours to tell: the tunnel's resolvers are reachable, and using them is left to the machine's owner.
    None,
}

impl Backend {
    /// Lets all names be asked through the interface `index`; without any server the link's settings are reverted.
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn set(self, index: u32, dns: &Dns) -> Result<(), DnsError> {
        if self == Self::None {
            return Ok(());
        }
        bounded(async { set(&system_bus().await?, index, dns).await }).await
    }

    /// Takes back what [`set`](Self::set) did. A link that is gone is no error.
    ///
    /// # Errors
    /// [`DnsError`].
    pub async fn revert(self, index: u32) -> Result<(), DnsError> {
        if self == Self::None {
            return Ok(());
        }
        bounded(async { revert(&system_bus().await?, index).await }).await
    }
}

/// Why name resolution was not set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DnsError {
    /// No system bus.
    #[error("cannot reach the system bus: {reason}; is dbus.service running?")]
    Bus {
        /// What happened.
        reason: String,
    },
    /// systemd-resolved refused.
    #[error("systemd-resolved refused {call}: {reason}; {advice}")]
    Refused {
        /// The D-Bus method.
        call: &'static str,
        /// What it said.
        reason: String,
        /// What to check.
        advice: &'static str,
    },
    /// No answer in time.
    #[error("systemd-resolved did not answer in {} seconds; is systemd-resolved.service running?", TIME_LIMIT.as_secs())]
    TimedOut,
}

async fn bounded(work: impl Future<Output = Result<(), DnsError>>) -> Result<(), DnsError> {
    tokio::time::timeout(TIME_LIMIT, work).await.unwrap_or(Err(DnsError::TimedOut))
}

async fn system_bus() -> Result<Connection, DnsError> {
    Connection::system().await.map_err(|error| DnsError::Bus { reason: error.to_string() })
}

async fn set(bus: &Connection, index: u32, dns: &Dns) -> Result<(), DnsError> {
    if dns.servers.is_empty() {
        return revert(bus, index).await;
    }
    let link = link(index);
    let servers: Vec<(i32, Vec<u8>)> = dns.servers.iter().map(|server| family_and_bytes(*server)).collect();
    // (domain, routing only?)
    let mut domains = vec![(".", true)];
    domains.extend(dns.search.iter().map(|domain| (domain.as_str(), false)));
    call(bus, "SetLinkDNS", &(link, servers)).await?;
    call(bus, "SetLinkDomains", &(link, domains)).await?;
    call(bus, "SetLinkDefaultRoute", &(link, true)).await
}

async fn revert(bus: &Connection, index: u32) -> Result<(), DnsError> {
    match call(bus, "RevertLink", &(link(index),)).await {
        Err(DnsError::Refused { advice: LINK_GONE, .. }) => Ok(()),
        other => other,
    }
}

const LINK_GONE: &str = "the tunnel's interface is gone";

async fn call<B: Serialize + DynamicType>(bus: &Connection, method: &'static str, body: &B) -> Result<(), DnsError> {
    let refused = match bus.call_method(Some(SERVICE), PATH, Some(INTERFACE), method, body).await {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let (reason, advice) = match &refused {
        zbus::Error::MethodError(name, text, _) => {
            (text.clone().unwrap_or_else(|| name.to_string()), advice(name.as_str()))
        }
        other => (other.to_string(), "is systemd-resolved.service running?"),
    };
    Err(DnsError::Refused { call: method, reason, advice })
}

fn advice(error: &str) -> &'static str {
    match error {
        "org.freedesktop.resolve1.NoSuchLink" => LINK_GONE,
        "org.freedesktop.DBus.Error.AccessDenied"
        | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
        | "org.freedesktop.PolicyKit1.Error.NotAuthorized" => {
            "is there a polkit rule that allows org.freedesktop.resolve1.* to the program's user?"
        }
        "org.freedesktop.resolve1.LinkBusy" => "is the tunnel's interface unmanaged in systemd-networkd?",
        _ => "is systemd-resolved.service running?",
    }
}

fn link(index: u32) -> i32 {
    // The kernel's indices are positive `int`s.
    i32::try_from(index).unwrap_or(i32::MAX)
}

fn family_and_bytes(address: IpAddr) -> (i32, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    }
}
