//! Opens the packet filter for gateway, manager and resolvers, and for nobody else.
//!
//! The image's table `inet m2mvpn` lets the daemon's marked packets out to the addresses in its sets. This module fills the
//! sets, with one `nft` transaction per change, **before** the first packet is sent. A gateway whose tunnel still carries traffic
//! stays in its set while another one is tried.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Display, Write as _};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The UDP port on which the table lets packets to gateways out.
const GATEWAY_PORT: u16 = 443;

/// How long `nft` may take. It needs some ten milliseconds.
const TIME_LIMIT: Duration = Duration::from_secs(5);

/// The packet filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// The image's table `inet m2mvpn`, whose sets are filled with `nft`.
    Table,
    /// None that is ours to open.
    None,
}

/// What the sets of the table hold: everybody whom the daemon may send packets to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sets {
    /// UDP and TCP port 443.
    pub gateways: BTreeSet<IpAddr>,
    /// TCP, on [`manager_ports`](Self::manager_ports).
    pub managers: BTreeSet<IpAddr>,
    /// A proxy on the way to the gateways, by address and port: it shares the managers' sets.
    pub proxies: BTreeSet<SocketAddr>,
    /// The managers' ports.
    pub manager_ports: BTreeSet<u16>,
    /// UDP and TCP port 53.
    pub resolvers: BTreeSet<IpAddr>,
}

impl Sets {
    /// The nft transaction after which the sets hold this and nothing else.
    #[must_use]
    pub fn transaction(&self) -> String {
        let mut text = String::new();
        let managers = self.managers.iter().copied().chain(self.proxies.iter().map(SocketAddr::ip)).collect();
        let ports: BTreeSet<u16> =
            self.manager_ports.iter().copied().chain(self.proxies.iter().map(SocketAddr::port)).collect();
        for (name, addresses) in [("gateways", &self.gateways), ("managers", &managers), ("resolvers", &self.resolvers)]
        {
            replace(&mut text, &format!("{name}4"), addresses.iter().filter(|address| address.is_ipv4()));
            replace(&mut text, &format!("{name}6"), addresses.iter().filter(|address| address.is_ipv6()));
        }
        replace(&mut text, "manager_ports", ports.iter());
        text
    }
}

/// Puts `sets` into the kernel, all of it or nothing.
///
/// # Errors
/// [`FirewallError`].
pub async fn load(sets: &Sets) -> Result<(), FirewallError> {
    let transaction = sets.transaction();
    let run = async {
        let mut nft = Command::new("nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = nft.stdin.take() {
            // An nft that refuses early closes its input; what it has to say about that is on its standard error.
            let _ = input.write_all(transaction.as_bytes()).await;
        }
        nft.wait_with_output().await
    };
    let output = tokio::time::timeout(TIME_LIMIT, run)
        .await
        .map_err(|_| FirewallError::TimedOut { seconds: TIME_LIMIT.as_secs() })?
        .map_err(FirewallError::Run)?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(FirewallError::Refused { reason });
    }
    Ok(())
}

/// Why the packet filter was not opened.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` could not be run.
    #[error("cannot run nft: {0}; is nftables installed?")]
    Run(#[source] io::Error),
    /// `nft` hung.
    #[error("nft did not end within {seconds} seconds")]
    TimedOut {
        /// How long it had.
        seconds: u64,
    },
    /// `nft` refused.
    #[error(
        "nft refused to open the firewall: {reason}; is the table inet m2mvpn loaded (m2mvpn-firewall.service), and has the program CAP_NET_ADMIN?"
    )]
    Refused {
        /// What it said.
        reason: String,
    },
    /// The table has no rule for this port.
    #[error(
        "the firewall lets packets to gateways out on port {GATEWAY_PORT} only; the gateway's origin names port {port}"
    )]
    GatewayPort {
        /// The port.
        port: u16,
    },
}

/// The packet filter while the daemon runs: remembers who is in use, so that one need's change leaves the others' openings alone.
#[derive(Debug)]
pub(super) struct Gate {
    firewall: Firewall,
    sets: tokio::sync::Mutex<Sets>,
    gateways: GatewaysInUse,
}

impl Gate {
    pub(super) fn new(firewall: Firewall) -> Self {
        Self { firewall, sets: tokio::sync::Mutex::default(), gateways: GatewaysInUse::default() }
    }

    /// Opens for these resolvers, and closes for all others.
    pub(super) async fn open_for_resolvers(
        &self,
        resolvers: impl IntoIterator<Item = IpAddr>,
    ) -> Result<(), FirewallError> {
        self.change(|sets| sets.resolvers = resolvers.into_iter().collect()).await
    }

    /// Opens for the manager at these addresses, and closes for all others.
    pub(super) async fn open_for_manager(&self, addresses: BTreeSet<IpAddr>, port: u16) -> Result<(), FirewallError> {
        self.change(|sets| {
            sets.managers = addresses;
            sets.manager_ports = BTreeSet::from([port]);
        })
        .await
    }

    /// Opens for a proxy at these addresses, and closes for all others.
    pub(super) async fn open_for_proxy(&self, addresses: BTreeSet<SocketAddr>) -> Result<(), FirewallError> {
        self.change(|sets| sets.proxies = addresses).await
    }

    /// Refuses a port that would be closed whatever the sets hold.
    pub(super) fn lets_gateways_out_on(&self, port: u16) -> Result<(), FirewallError> {
        match self.firewall {
            Firewall::Table if port != GATEWAY_PORT => Err(FirewallError::GatewayPort { port }),
            _ => Ok(()),
        }
    }

    /// Opens for a gateway at these addresses besides those that are in use.
    pub(super) async fn open_for_gateway(&self, addresses: BTreeSet<IpAddr>) -> Result<Opening, FirewallError> {
        let opening = Opening::new(addresses, &self.gateways);
        self.change(|_| ()).await?;
        Ok(opening)
    }

    async fn change(&self, change: impl FnOnce(&mut Sets)) -> Result<(), FirewallError> {
        // Held while nft runs, so that the last change is also the last one loaded.
        let mut sets = self.sets.lock().await;
        change(&mut sets);
        sets.gateways = lock(&self.gateways).keys().copied().collect();
        match self.firewall {
            Firewall::Table => load(&sets).await,
            Firewall::None => Ok(()),
        }
    }
}

/// Keeps the firewall open for a gateway's addresses while it exists. They are taken out of their set with the next change after that.
#[derive(Debug)]
pub struct Opening {
    addresses: BTreeSet<IpAddr>,
    in_use: GatewaysInUse,
}

impl Opening {
    /// Keeps only the address that answered.
    pub(super) fn narrow(&mut self, address: IpAddr) {
        *self = Self::new(BTreeSet::from([address]), &self.in_use);
    }

    fn new(addresses: BTreeSet<IpAddr>, in_use: &GatewaysInUse) -> Self {
        {
            let mut counts = lock(in_use);
            for address in &addresses {
                *counts.entry(*address).or_insert(0) += 1;
            }
        }
        Self { addresses, in_use: Arc::clone(in_use) }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        let mut counts = lock(&self.in_use);
        for address in &self.addresses {
            if let Some(count) = counts.get_mut(address) {
                *count -= 1;
            }
        }
        counts.retain(|_, count| *count > 0);
    }
}

/// How many openings there are for an address.
type GatewaysInUse = Arc<Mutex<BTreeMap<IpAddr, usize>>>;

fn lock(in_use: &GatewaysInUse) -> MutexGuard<'_, BTreeMap<IpAddr, usize>> {
    in_use.lock().unwrap_or_else(PoisonError::into_inner)
}

fn replace<T: Display>(text: &mut String, set: &str, elements: impl Iterator<Item = T>) {
    let elements: Vec<String> = elements.map(|element| element.to_string()).collect();
    // Writing to a string cannot fail.
    let _ = writeln!(text, "flush set inet m2mvpn {set}");
    if !elements.is_empty() {
        let _ = writeln!(text, "add element inet m2mvpn {set} {{ {} }}", elements.join(", "));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn addresses<const N: usize>(texts: [&str; N]) -> BTreeSet<IpAddr> {
        texts.into_iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn one_transaction_replaces_every_set() {
        let sets = Sets {
            gateways: addresses(["198.51.100.10", "2001:db8:2::10", "198.51.100.9"]),
            managers: addresses(["203.0.113.10"]),
            proxies: BTreeSet::from(["192.0.2.8:3128".parse().unwrap()]),
            manager_ports: BTreeSet::from([443, 8443]),
            resolvers: addresses(["2001:db8:1::1"]),
        };
        assert_eq!(
            sets.transaction(),
            "flush set inet m2mvpn gateways4\n\
             add element inet m2mvpn gateways4 { 198.51.100.9, 198.51.100.10 }\n\
             flush set inet m2mvpn gateways6\n\
             add element inet m2mvpn gateways6 { 2001:db8:2::10 }\n\
             flush set inet m2mvpn managers4\n\
             add element inet m2mvpn managers4 { 192.0.2.8, 203.0.113.10 }\n\
             flush set inet m2mvpn managers6\n\
             flush set inet m2mvpn resolvers4\n\
             flush set inet m2mvpn resolvers6\n\
             add element inet m2mvpn resolvers6 { 2001:db8:1::1 }\n\
             flush set inet m2mvpn manager_ports\n\
             add element inet m2mvpn manager_ports { 443, 3128, 8443 }\n"
        );
    }

    #[test]
    fn a_gateway_on_another_port_is_refused_where_the_table_rules() {
        assert!(Gate::new(Firewall::Table).lets_gateways_out_on(443).is_ok());
        assert!(Gate::new(Firewall::None).lets_gateways_out_on(8443).is_ok());
        let error = Gate::new(Firewall::Table).lets_gateways_out_on(8443).unwrap_err();
        assert!(error.to_string().ends_with("names port 8443"), "{error}");
    }

    #[tokio::test]
    async fn a_gateway_in_use_stays_until_it_is_let_go() {
        let gate = Gate::new(Firewall::None);
        let mut first = gate.open_for_gateway(addresses(["192.0.2.1", "2001:db8::1"])).await.unwrap();
        first.narrow("192.0.2.1".parse().unwrap());
        let second = gate.open_for_gateway(addresses(["192.0.2.1", "192.0.2.2"])).await.unwrap();
        assert_eq!(gate.sets.lock().await.gateways, addresses(["192.0.2.1", "192.0.2.2"]));
        drop(second);
        gate.open_for_resolvers(addresses(["192.0.2.53"])).await.unwrap();
        assert_eq!(gate.sets.lock().await.gateways, addresses(["192.0.2.1"]));
        drop(first);
        gate.open_for_manager(addresses(["203.0.113.10"]), 443).await.unwrap();
        let sets = gate.sets.lock().await;
        assert_eq!((sets.gateways.len(), sets.managers.len(), sets.resolvers.len()), (0, 1, 1));
    }
}
