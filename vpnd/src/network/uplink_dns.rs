//! Who the uplink's resolvers are.
//!
//! The machine's own name resolution (systemd-resolved) knows only the tunnel's resolvers, on purpose. The uplink's are read
//! where systemd-networkd leaves them: `leases/INDEX` has those of DHCPv4, `links/INDEX` those of the configuration, and of
//! router advertisements and DHCPv6 as far as networkd is told to use them.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};

/// The only port on which resolvers are asked; the firewall opens no other.
pub const PORT: u16 = 53;

/// Where the uplink's resolvers are learned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkDns {
    /// systemd-networkd's state below this directory (`/run/systemd/netif`), besides resolvers that are fixed (the first-boot
    /// file's `uplink.dns`, which are asked first).
    Networkd {
        /// The directory.
        directory: PathBuf,
        /// The fixed ones.
        fixed: Vec<IpAddr>,
    },
    /// `/etc/resolv.conf`, or the file that systemd-resolved keeps for others when that one names only its own stub. For a machine
    /// whose name resolution is not the daemon's to rule.
    ResolvConf,
    /// These and no others.
    Fixed(Vec<IpAddr>),
}

impl UplinkDns {
    /// The resolvers now, in the order in which to ask them; a link-local one with its interface as scope. Files that are missing or
    /// unreadable name none.
    #[must_use]
    pub fn resolvers(&self) -> Vec<SocketAddr> {
        let mut found = Vec::new();
        match self {
            Self::Networkd { directory, fixed } => {
                add(&mut found, fixed.iter().map(|address| SocketAddr::new(*address, PORT)));
                add(&mut found, networkd(directory));
            }
            Self::ResolvConf => {
                let read = |path: &str| resolv_conf(&std::fs::read_to_string(path).unwrap_or_default());
                add(&mut found, read("/etc/resolv.conf"));
                if found.is_empty() {
                    add(&mut found, read("/run/systemd/resolve/resolv.conf"));
                }
            }
            Self::Fixed(addresses) => add(&mut found, addresses.iter().map(|address| SocketAddr::new(*address, PORT))),
        }
        found
    }
}

fn add(found: &mut Vec<SocketAddr>, resolvers: impl IntoIterator<Item = SocketAddr>) {
    for resolver in resolvers {
        if usable(resolver.ip()) && !found.contains(&resolver) {
            found.push(resolver);
        }
    }
}

/// Not systemd-resolved's stub, which would ask through the tunnel, and nothing that cannot be a resolver.
fn usable(address: IpAddr) -> bool {
    let stub = [IpAddr::from([127, 0, 0, 53]), IpAddr::from([127, 0, 0, 54])].contains(&address);
    !(stub || address.is_unspecified() || address.is_multicast())
}

fn networkd(directory: &Path) -> Vec<SocketAddr> {
    let mut found = Vec::new();
    for kind in ["leases", "links"] {
        let Ok(entries) = std::fs::read_dir(directory.join(kind)) else { continue };
        let mut links: Vec<(u32, PathBuf)> = entries
            .flatten()
            .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
            .collect();
        links.sort();
        for (index, path) in links {
            found.extend(networkd_file(&std::fs::read_to_string(path).unwrap_or_default(), index));
        }
    }
    found
}

/// The value of `DNS=` in one of networkd's files about the link `index`.
fn networkd_file(text: &str, index: u32) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| line.strip_prefix("DNS="))
        .flat_map(str::split_ascii_whitespace)
        .filter_map(|server| networkd_server(server, index))
        .collect()
}

/// One server as networkd writes it: `ADDRESS[%INTERFACE][#NAME]`, with a port `ADDRESS:PORT` or `[ADDRESS]:PORT` before the rest.
fn networkd_server(text: &str, index: u32) -> Option<SocketAddr> {
    let text = text.split('#').next().unwrap_or_default();
    let text = text.split('%').next().unwrap_or_default();
    let address = match (text.parse(), text.parse::<SocketAddr>()) {
        (Ok(address), _) => address,
        (_, Ok(server)) if server.port() == PORT => server.ip(),
        _ => return None,
    };
    Some(scoped(address, index))
}

fn resolv_conf(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            if words.next() != Some("nameserver") {
                return None;
            }
            let (address, interface) = match words.next()?.split_once('%') {
                Some((address, interface)) => (address.parse().ok()?, Some(interface.to_owned())),
                None => (line.split_ascii_whitespace().nth(1)?.parse().ok()?, None),
            };
            let index = interface.map_or(0, |name| {
                name.parse().unwrap_or_else(|_| nix::net::if_::if_nametoindex(name.as_str()).unwrap_or(0))
            });
            Some(scoped(address, index))
        })
        .collect()
}

fn scoped(address: IpAddr, index: u32) -> SocketAddr {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => SocketAddrV6::new(address, PORT, 0, index).into(),
        address => SocketAddr::new(address, PORT),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networkd_tells_leases_and_links() {
        let directory = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        file(
            "leases/2",
            "# This is private data. Do not parse.\nADDRESS=192.0.2.7\nDNS=192.0.2.1 192.0.2.2\nNTP=192.0.2.1\n",
        );
        file(
            "links/2",
            "ADMIN_STATE=configured\nDNS=192.0.2.1 [2001:db8::1]:53 2001:db8::2#dns.example fe80::1%eth0\n",
        );
        file("links/10", "DNS=198.51.100.1:53%wwan0#x 198.51.100.2:853\nDOMAINS=DNS=example\n");
        file("links/.#2x", "DNS=203.0.113.1\n");
        let source =
            UplinkDns::Networkd { directory: directory.path().to_owned(), fixed: vec!["192.0.2.9".parse().unwrap()] };
        let expected = [
            "192.0.2.9:53",
            "192.0.2.1:53",
            "192.0.2.2:53",
            "[2001:db8::1]:53",
            "[2001:db8::2]:53",
            "[fe80::1%2]:53",
            "198.51.100.1:53",
        ];
        assert_eq!(source.resolvers(), expected.map(at));
        let missing = UplinkDns::Networkd { directory: "/nonexistent".into(), fixed: Vec::new() };
        assert_eq!(missing.resolvers(), []);
    }

    #[test]
    fn resolv_conf_without_the_stub() {
        let text = "# nameserver 192.0.2.3\nsearch example\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\n\
                    nameserver fe80::1%3\nnameserver nonsense\nnameserver\noptions edns0\n";
        let mut found = Vec::new();
        add(&mut found, resolv_conf(text));
        assert_eq!(found, ["192.0.2.1:53", "[2001:db8::1]:53", "[fe80::1%3]:53"].map(at));
    }

    #[test]
    fn fixed_ones_are_checked_too() {
        let source =
            UplinkDns::Fixed(["0.0.0.0", "ff02::fb", "192.0.2.1", "192.0.2.1"].map(|a| a.parse().unwrap()).to_vec());
        assert_eq!(source.resolvers(), [at("192.0.2.1:53")]);
    }
}
