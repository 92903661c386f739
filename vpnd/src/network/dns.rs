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
use zbus::zvariant::DynamicType;
use zbus::{Connection, DBusError};

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
    let (name, text) = match &refused {
        zbus::Error::MethodError(name, text, _) => (name.to_string(), text.clone()),
        // The names that D-Bus itself defines.
        zbus::Error::FDO(error) => (error.name().to_string(), error.description().map(str::to_owned)),
        other => (String::new(), Some(other.to_string())),
    };
    let advice = advice(&name);
    let reason = text.unwrap_or(name);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Child, Command, Stdio};

    use futures_util::StreamExt;
    use zbus::MessageStream;
    use zbus::connection::Builder;
    use zbus::message::Type;

    use super::*;

    /// A message bus of the test's own.
    struct Bus {
        daemon: Child,
        address: String,
        _directory: tempfile::TempDir,
    }

    impl Bus {
        fn start() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("bus.conf");
            let configuration = format!(
                "<busconfig><listen>unix:path={}/bus</listen><auth>EXTERNAL</auth><policy context=\"default\">\
                 <allow own=\"*\"/><allow send_destination=\"*\"/><allow receive_sender=\"*\"/></policy></busconfig>",
                directory.path().display()
            );
            std::fs::write(&file, configuration).unwrap();
            let mut daemon = Command::new("dbus-daemon")
                .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address", "--config-file"])
                .arg(file)
                .stdout(Stdio::piped())
                // It tells that it cannot raise a limit that does not matter here.
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            let mut address = String::new();
            BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
            Self { daemon, address: address.trim().to_owned(), _directory: directory }
        }

        async fn connect(&self) -> Connection {
            Builder::address(self.address.as_str()).build().await.unwrap()
        }
    }

    impl Drop for Bus {
        fn drop(&mut self) {
            let _ = self.daemon.kill();
            let _ = self.daemon.wait();
        }
    }

    /// Stands for systemd-resolved: answers every call and tells of it, or refuses every call with this error.
    async fn resolved(bus: &Bus, error: Option<&'static str>) -> tokio::sync::mpsc::UnboundedReceiver<String> {
        let connection = bus.connect().await;
        let owned = connection
            .call_method(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                Some("org.freedesktop.DBus"),
                "RequestName",
                &(SERVICE, 0u32),
            )
            .await
            .unwrap();
        assert_eq!(owned.body().deserialize::<u32>().unwrap(), 1);
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut messages = MessageStream::from(&connection);
            while let Some(Ok(message)) = messages.next().await {
                if message.message_type() != Type::MethodCall {
                    continue;
                }
                let header = message.header();
                let method = header.member().unwrap().to_string();
                assert_eq!((header.path().unwrap().as_str(), header.interface().unwrap().as_str()), (PATH, INTERFACE));
                let body = message.body();
                let arguments = match method.as_str() {
                    "SetLinkDNS" => format!("{:?}", body.deserialize::<(i32, Vec<(i32, Vec<u8>)>)>().unwrap()),
                    "SetLinkDomains" => format!("{:?}", body.deserialize::<(i32, Vec<(String, bool)>)>().unwrap()),
                    "SetLinkDefaultRoute" => format!("{:?}", body.deserialize::<(i32, bool)>().unwrap()),
                    _ => format!("{:?}", body.deserialize::<(i32,)>().unwrap()),
                };
                let _ = sender.send(format!("{method}{arguments}"));
                match error {
                    None => connection.reply(&header, &()).await.unwrap(),
                    Some(name) => connection.reply_error(&header, name, &("because",)).await.unwrap(),
                };
            }
        });
        receiver
    }

    fn company() -> Dns {
        Dns {
            servers: vec!["10.20.0.80".parse().unwrap(), "fd20::80".parse().unwrap()],
            search: vec!["corp.example".parse().unwrap()],
        }
    }

    #[tokio::test]
    async fn all_names_go_through_the_tunnel_until_it_is_reverted() {
        let bus = Bus::start();
        let mut calls = resolved(&bus, None).await;
        let client = bus.connect().await;
        set(&client, 7, &company()).await.unwrap();
        revert(&client, 7).await.unwrap();
        set(&client, 8, &Dns::default()).await.unwrap();
        let expected = [
            "SetLinkDNS(7, [(2, [10, 20, 0, 80]), (10, [253, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 128])])",
            "SetLinkDomains(7, [(\".\", true), (\"corp.example\", false)])",
            "SetLinkDefaultRoute(7, true)",
            "RevertLink(7,)",
            "RevertLink(8,)",
        ];
        for call in expected {
            assert_eq!(calls.recv().await.unwrap(), call);
        }
    }

    #[tokio::test]
    async fn a_refusal_says_what_to_check() {
        let bus = Bus::start();
        let client = bus.connect().await;
        let error = set(&client, 7, &company()).await.unwrap_err();
        assert!(error.to_string().ends_with("is systemd-resolved.service running?"), "{error}");

        let _calls = resolved(&bus, Some("org.freedesktop.DBus.Error.AccessDenied")).await;
        let error = set(&client, 7, &company()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "systemd-resolved refused SetLinkDNS: because; is there a polkit rule that allows org.freedesktop.resolve1.* to the program's user?"
        );
    }

    #[tokio::test]
    async fn reverting_a_link_that_is_gone_is_no_error() {
        let bus = Bus::start();
        let _calls = resolved(&bus, Some("org.freedesktop.resolve1.NoSuchLink")).await;
        revert(&bus.connect().await, 7).await.unwrap();
    }
}
