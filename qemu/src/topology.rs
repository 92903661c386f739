use std::sync::Arc;

use crate::{
    Node, Result,
    addresses::{
        DEVICE_NETWORK_V4, GATEWAY_INSIDE_V4, GATEWAY_INSIDE_V6, GATEWAY_ROUTER, GATEWAY_V4, GATEWAY_V6,
        GATEWAY2_INSIDE_V4, GATEWAY2_INSIDE_V6, GATEWAY2_ROUTER, GATEWAY2_V4, GATEWAY2_V6, INTRANET_V4, INTRANET_V6,
        MANAGER_ROUTER, MANAGER_V4, MANAGER_V6, PREFIX_V4, PREFIX_V6, ROUTER_V4, ROUTER_V6,
    },
    holder::Holder,
    process,
};

/// The router's end of the device link: this is where the capture listens.
pub const DEVICE_LINK: &str = "dev0";
/// The switch that machines and processes are plugged into, in the namespace `device`.
pub(crate) const SWITCH: &str = "br0";
/// The gateways' interface in the company's network.
pub(crate) const INSIDE: &str = "corp0";
/// The company's network: a switch that both gateways are plugged into, with the company's own addresses.
pub(crate) const COMPANY: &str = "eth0";
const SWITCH_OPTIONS: &str = "type bridge stp_state 0 forward_delay 0 mcast_snooping 0";

/// The hosts of the lab and the links between them.
///
/// ```text
///  device (switch br0) --- dev0 internet gw0  --- eth0 gateway corp0 ---- (switch eth0) company
///                               internet gw2  --- eth0 gateway2 corp0 --- (switch eth0) company
///                               internet mgr0 --- eth0 manager
/// ```
#[derive(Debug)]
pub struct Topology {
    /// The uplink of the devices: a switch without an address of its own.
    pub device: Node,
    /// The router.
    pub internet: Node,
    /// The host of `m2m-gateway`.
    pub gateway: Node,
    /// The host of a second `m2m-gateway`, in front of the same company.
    pub gateway2: Node,
    /// The host of `m2m-manager`.
    pub manager: Node,
    /// The host that only the tunnel reaches.
    pub company: Node,
}

impl Topology {
    /// Makes hosts and links.
    pub(crate) fn create(holder: &Arc<Holder>) -> Result<Self> {
        let topology = Self {
            device: Node::create(holder, "device")?,
            internet: Node::create(holder, "internet")?,
            gateway: Node::create(holder, "gateway")?,
            gateway2: Node::create(holder, "gateway2")?,
            manager: Node::create(holder, "manager")?,
            company: Node::create(holder, "company")?,
        };
        topology.internet.nft(&router_rules())?;
        for (node, parameter) in [
            // The switch speaks for itself on neither link: what the capture sees is the device and the router.
            (&topology.device, "net/ipv6/conf/all/disable_ipv6"),
            (&topology.device, "net/ipv6/conf/default/disable_ipv6"),
            (&topology.internet, "net/ipv4/ip_forward"),
            (&topology.internet, "net/ipv6/conf/all/forwarding"),
            (&topology.gateway, "net/ipv4/ip_forward"),
            (&topology.gateway, "net/ipv6/conf/all/forwarding"),
            (&topology.gateway2, "net/ipv4/ip_forward"),
            (&topology.gateway2, "net/ipv6/conf/all/forwarding"),
        ] {
            node.sysctl(parameter, "1")?;
        }
        topology.connect(holder)?;
        topology.address()?;
        Ok(topology)
    }

    fn connect(&self, holder: &Arc<Holder>) -> Result<()> {
        self.device.ip(&format!("link add {SWITCH} {SWITCH_OPTIONS}"))?;
        self.company.ip(&format!("link add {COMPANY} {SWITCH_OPTIONS}"))?;
        link(holder, (&self.internet, DEVICE_LINK), (&self.device, "wan"))?;
        link(holder, (&self.internet, "gw0"), (&self.gateway, "eth0"))?;
        link(holder, (&self.internet, "gw2"), (&self.gateway2, "eth0"))?;
        link(holder, (&self.internet, "mgr0"), (&self.manager, "eth0"))?;
        self.device.ip(&format!("link set wan master {SWITCH}"))?;
        for gateway in [&self.gateway, &self.gateway2] {
            let port = gateway.name();
            link(holder, (gateway, INSIDE), (&self.company, port))?;
            self.company.sysctl(&format!("net/ipv6/conf/{port}/disable_ipv6"), "1")?;
            self.company.ip(&format!("link set {port} master {COMPANY}"))?;
        }
        self.device.set_link(SWITCH, true)?;
        self.company.set_link(COMPANY, true)
    }

    fn address(&self) -> Result<()> {
        address(&self.internet, DEVICE_LINK, ROUTER_V4, ROUTER_V6)?;
        address(&self.internet, "gw0", GATEWAY_ROUTER.0, GATEWAY_ROUTER.1)?;
        address(&self.internet, "gw2", GATEWAY2_ROUTER.0, GATEWAY2_ROUTER.1)?;
        address(&self.internet, "mgr0", MANAGER_ROUTER.0, MANAGER_ROUTER.1)?;
        address(&self.gateway, "eth0", GATEWAY_V4, GATEWAY_V6)?;
        address(&self.gateway, INSIDE, GATEWAY_INSIDE_V4, GATEWAY_INSIDE_V6)?;
        address(&self.gateway2, "eth0", GATEWAY2_V4, GATEWAY2_V6)?;
        address(&self.gateway2, INSIDE, GATEWAY2_INSIDE_V4, GATEWAY2_INSIDE_V6)?;
        address(&self.manager, "eth0", MANAGER_V4, MANAGER_V6)?;
        address(&self.company, COMPANY, INTRANET_V4, INTRANET_V6)?;
        default_routes(&self.gateway, GATEWAY_ROUTER.0, GATEWAY_ROUTER.1)?;
        default_routes(&self.gateway2, GATEWAY2_ROUTER.0, GATEWAY2_ROUTER.1)?;
        default_routes(&self.manager, MANAGER_ROUTER.0, MANAGER_ROUTER.1)?;
        default_routes(&self.company, GATEWAY_INSIDE_V4, GATEWAY_INSIDE_V6)
    }
}

/// Connects two nodes by a pair of interfaces and brings both up.
pub(crate) fn link(holder: &Arc<Holder>, one: (&Node, &str), other: (&Node, &str)) -> Result<()> {
    process::check(
        holder.command(None, "ip").args(["link", "add", "name", one.1, "netns", one.0.name(), "type", "veth"]).args([
            "peer",
            "name",
            other.1,
            "netns",
            other.0.name(),
        ]),
    )?;
    one.0.set_link(one.1, true)?;
    other.0.set_link(other.1, true)
}

/// Gives an interface its two addresses, usable at once.
pub(crate) fn address(
    node: &Node,
    interface: &str,
    v4: impl std::fmt::Display,
    v6: impl std::fmt::Display,
) -> Result<()> {
    node.ip(&format!("addr add {v4}/{PREFIX_V4} dev {interface}"))?;
    node.ip(&format!("addr add {v6}/{PREFIX_V6} dev {interface} nodad")).map(drop)
}

/// Sets the default routes of a node.
pub(crate) fn default_routes(node: &Node, v4: impl std::fmt::Display, v6: impl std::fmt::Display) -> Result<()> {
    node.ip(&format!("route add default via {v4}"))?;
    node.ip(&format!("route add default via {v6}")).map(drop)
}

/// NAT for the devices' IPv4, and silence about the router's own group memberships: the audit counts every multicast
/// report on the device link as the device's.
fn router_rules() -> String {
    format!(
        "table ip nat {{
    chain postrouting {{
        type nat hook postrouting priority 100
        ip saddr {DEVICE_NETWORK_V4} oifname != \"{DEVICE_LINK}\" masquerade
    }}
}}
table inet quiet {{
    chain output {{
        type filter hook output priority 0
        oifname \"{DEVICE_LINK}\" ip protocol igmp drop
        oifname \"{DEVICE_LINK}\" icmpv6 type {{ mld-listener-query, mld-listener-report, mld2-listener-report }} drop
    }}
}}
"
    )
}
