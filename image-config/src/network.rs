//! What systemd's network services are told about the uplinks. Pure: from the first-boot file to texts.
//!
//! Nothing on an uplink may decide what the machine resolves or is called: domains and host names that DHCP or router
//! advertisements bring are not used, and their resolvers by vpnd alone, for the names of manager and gateways. It reads
//! those of DHCPv4 in the lease; those of IPv6 are written down by networkd only when it is told to use them, so it is, and
//! `DNSDefaultRoute=no` keeps systemd-resolved from asking them.

use std::fmt::Write;
use std::net::IpAddr;

use m2m_protocol::first_boot::{FirstBoot, Method, Uplink};

/// The metric of the routes of the uplink with priority 0. Above what administrators set by hand, below the kernel's
/// default for IPv6 of 1024 for the usual priorities.
const BASE_METRIC: u32 = 100;

/// A file that systemd reads at this boot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFile {
    /// The path below `/run`.
    pub path: String,
    /// The content.
    pub content: String,
}

/// The files that make systemd-networkd and systemd-timesyncd do what the first-boot file says.
#[must_use]
pub fn files(first_boot: &FirstBoot) -> Vec<RuntimeFile> {
    // networkd takes the first file that matches an interface, in the order of their names.
    let uplinks = first_boot.uplinks.iter().enumerate().map(|(index, uplink)| RuntimeFile {
        path: format!("systemd/network/10-m2mvpn-{index:03}.network"),
        content: network(uplink),
    });
    uplinks.chain(ntp(&first_boot.ntp.servers)).collect()
}

fn network(uplink: &Uplink) -> String {
    let metric = BASE_METRIC + u32::from(uplink.priority);
    let mut text = format!("[Match]\nName={}\n\n[Link]\nRequiredForOnline=no\n\n", uplink.interface.as_str());
    text += "[Network]\n\
        LinkLocalAddressing=ipv6\n\
        LLMNR=no\n\
        MulticastDNS=no\n\
        LLDP=no\n\
        EmitLLDP=no\n\
        DNSDefaultRoute=no\n\
        IPv6PrivacyExtensions=no\n";
    match uplink.method {
        Method::Dhcp => dhcp(&mut text, metric),
        Method::Static => fixed(&mut text, uplink, metric),
    }
    text + TIME_RULE
}

/// The time servers are those of the uplink, also when the tunnel takes all other traffic. The rule stands before the one by
/// which vpnd leads packets into the tunnel.
const TIME_RULE: &str = "\n[RoutingPolicyRule]\n\
    Family=both\n\
    Priority=27900\n\
    User=systemd-timesync\n\
    IPProtocol=udp\n\
    DestinationPort=123\n\
    Table=main\n";

fn dhcp(text: &mut String, metric: u32) {
    *text += &format!(
        "DHCP=yes\n\
        IPv6AcceptRA=yes\n\
        \n\
        [DHCPv4]\n\
        ClientIdentifier=mac\n\
        RouteMetric={metric}\n\
        UseDNS=no\n\
        UseDomains=no\n\
        UseHostname=no\n\
        SendHostname=no\n\
        UseTimezone=no\n\
        UseNTP=yes\n\
        \n\
        [DHCPv6]\n\
        UseDNS=yes\n\
        UseDomains=no\n\
        UseHostname=no\n\
        SendHostname=no\n\
        UseNTP=yes\n\
        \n\
        [IPv6AcceptRA]\n\
        RouteMetric={metric}\n\
        UseDNS=yes\n\
        UseDomains=no\n"
    );
}

fn fixed(text: &mut String, uplink: &Uplink, metric: u32) {
    *text += "DHCP=no\nIPv6AcceptRA=no\n";
    for address in &uplink.addresses {
        let _ = writeln!(text, "Address={address}");
    }
    for gateway in &uplink.gateways {
        let _ = write!(text, "\n[Route]\nGateway={gateway}\nMetric={metric}\n");
    }
}

fn ntp(servers: &[IpAddr]) -> Option<RuntimeFile> {
    if servers.is_empty() {
        return None;
    }
    let servers: Vec<_> = servers.iter().map(IpAddr::to_string).collect();
    Some(RuntimeFile {
        path: "systemd/timesyncd.conf.d/20-m2mvpn.conf".to_owned(),
        content: format!("[Time]\nNTP={}\n", servers.join(" ")),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use m2m_protocol::config_file;
    use std::path::Path;

    fn generated(rest: &str) -> Vec<RuntimeFile> {
        let text = format!(
            "version = 1\n[manager]\nurl = \"https://manager.example\"\n\
             trust_anchor = \"-----BEGIN CERTIFICATE-----\\nMAA=\\n-----END CERTIFICATE-----\"\n{rest}"
        );
        files(&config_file::parse(Path::new("first-boot.toml"), &text).unwrap())
    }

    /// The lines of the section `[name]`, of the last one if there are several.
    fn section<'file>(file: &'file RuntimeFile, name: &str) -> Vec<&'file str> {
        let text = file.content.rsplit_once(&format!("[{name}]\n")).unwrap().1;
        text.split("\n[").next().unwrap().lines().filter(|line| !line.is_empty()).collect()
    }

    #[test]
    fn uplinks_keep_their_order_and_get_metrics_by_priority() {
        let files = generated(
            "[[uplink]]\nmatch = \"wwan0\"\npriority = 20\nmethod = \"dhcp\"\n\
             [[uplink]]\nmatch = \"en*\"\npriority = 5\nmethod = \"dhcp\"\n",
        );
        assert_eq!(files[0].path, "systemd/network/10-m2mvpn-000.network");
        assert_eq!(files[1].path, "systemd/network/10-m2mvpn-001.network");
        assert_eq!(section(&files[0], "Match"), ["Name=wwan0"]);
        assert_eq!(section(&files[1], "Match"), ["Name=en*"]);
        for (file, metric) in [(&files[0], "RouteMetric=120"), (&files[1], "RouteMetric=105")] {
            assert!(section(file, "DHCPv4").contains(&metric));
            assert!(section(file, "IPv6AcceptRA").contains(&metric));
        }
        assert_eq!(files.len(), 2, "no NTP server, no file for timesyncd");
    }

    #[test]
    fn nothing_from_the_uplink_decides_names() {
        let files = generated("[[uplink]]\nmatch = \"en*\"\nmethod = \"dhcp\"\n");
        for name in ["DHCPv4", "DHCPv6", "IPv6AcceptRA"] {
            let lines = section(&files[0], name);
            assert!(lines.contains(&"UseDomains=no"), "{name}: {lines:?}");
            assert_eq!(lines.contains(&"UseDNS=no"), name == "DHCPv4", "{name}: {lines:?}");
        }
        for name in ["DHCPv4", "DHCPv6"] {
            let lines = section(&files[0], name);
            assert!(lines.contains(&"UseHostname=no") && lines.contains(&"SendHostname=no"), "{name}: {lines:?}");
        }
        let network = section(&files[0], "Network");
        for line in ["LLMNR=no", "MulticastDNS=no", "EmitLLDP=no", "DNSDefaultRoute=no", "DHCP=yes", "IPv6AcceptRA=yes"]
        {
            assert!(network.contains(&line), "{line}");
        }
    }

    #[test]
    fn a_static_uplink_has_its_addresses_and_routes_and_listens_to_nobody() {
        let files = generated(
            "[[uplink]]\nmatch = \"eth0\"\npriority = 2\nmethod = \"static\"\n\
             addresses = [\"198.51.100.7/24\", \"2001:db8::7/64\"]\n\
             gateways = [\"198.51.100.1\", \"2001:db8::1\"]\ndns = [\"198.51.100.1\"]\n",
        );
        let network = section(&files[0], "Network");
        for line in ["DHCP=no", "IPv6AcceptRA=no", "Address=198.51.100.7/24", "Address=2001:db8::7/64"] {
            assert!(network.contains(&line), "{line}");
        }
        assert!(files[0].content.contains("[Route]\nGateway=198.51.100.1\nMetric=102\n"));
        assert_eq!(section(&files[0], "Route"), ["Gateway=2001:db8::1", "Metric=102"]);
        // The uplink's resolver is for vpnd alone.
        assert!(!files[0].content.contains("\nDNS="));
    }

    #[test]
    fn the_time_is_asked_beside_the_tunnel() {
        for method in ["method = \"dhcp\"", "method = \"static\"\naddresses = [\"198.51.100.7/24\"]"] {
            let files = generated(&format!("[[uplink]]\nmatch = \"en*\"\n{method}\n"));
            let rule = section(&files[0], "RoutingPolicyRule");
            for line in ["Family=both", "User=systemd-timesync", "DestinationPort=123", "Table=main"] {
                assert!(rule.contains(&line), "{line}");
            }
        }
    }

    #[test]
    fn time_servers_go_to_timesyncd() {
        let files = generated(
            "[ntp]\nservers = [\"192.0.2.1\", \"2001:db8::1\"]\n[[uplink]]\nmatch = \"en*\"\nmethod = \"dhcp\"\n",
        );
        let file = files.last().unwrap();
        assert_eq!(file.path, "systemd/timesyncd.conf.d/20-m2mvpn.conf");
        assert_eq!(section(file, "Time"), ["NTP=192.0.2.1 2001:db8::1"]);
    }
}
