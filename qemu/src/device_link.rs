use std::{
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{
    LabError, Node, Result, Topology,
    addresses::{ROUTER_V4, ROUTER_V6},
    holder::Holder,
    topology::{self, SWITCH},
};

/// What a device's network namespace lets in and out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// The product's own: `image-config/files/usr/lib/m2mvpn/firewall.nft`.
    Product,
    /// Everything, except for the kernel's own multicast reports: for hosts that stand for no device.
    Open,
}

/// A network namespace on the device link, with fixed addresses.
#[derive(Debug, Clone)]
pub struct DeviceNode {
    /// The namespace.
    pub node: Node,
    /// Its address on the device link.
    pub v4: Ipv4Addr,
    /// Its address on the device link.
    pub v6: Ipv6Addr,
    port: String,
    switch: Node,
}

/// The device's network interface.
pub(crate) const UPLINK: &str = "uplink0";

const OPEN_RULES: &str = "table inet quiet {
    chain output {
        type filter hook output priority 0
        ip protocol igmp drop
        icmpv6 type { mld-listener-report, mld2-listener-report } drop
    }
}
";

impl DeviceNode {
    /// Plugs a new namespace into the switch; the firewall is in place before the link is up.
    pub(crate) fn plug(
        holder: &Arc<Holder>,
        topology: &Topology,
        ports: &AtomicU8,
        name: &str,
        firewall: Firewall,
    ) -> Result<Self> {
        let number = ports.fetch_add(1, Ordering::Relaxed);
        let host = 100 + number;
        let node = Node::create(holder, name)?;
        match firewall {
            Firewall::Product => node.nft(&product_rules()?)?,
            Firewall::Open => node.nft(OPEN_RULES)?,
        }
        node.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
        node.sysctl("net/ipv6/conf/default/router_solicitations", "0")?;
        let port = format!("port{number}");
        topology::link(holder, (&topology.device, &port), (&node, UPLINK))?;
        topology.device.ip(&format!("link set {port} master {SWITCH}"))?;
        let v4 = Ipv4Addr::new(192, 0, 2, host);
        let v6 = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, u16::from(host));
        let device = Self { node, v4, v6, port, switch: topology.device.clone() };
        device.address()?;
        Ok(device)
    }

    /// Pulls the cable (`up` false) or plugs it in again. Addresses and routes come back with it.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.switch.set_link(&self.port, up)
    }

    /// Takes the interface of the device itself down and up again, which loses routes, and sets them again.
    ///
    /// # Errors
    /// When `ip` fails.
    pub fn restart_interface(&self) -> Result<()> {
        self.node.set_link(UPLINK, false)?;
        self.node.ip(&format!("addr flush dev {UPLINK}"))?;
        self.node.set_link(UPLINK, true)?;
        self.address()
    }

    fn address(&self) -> Result<()> {
        topology::address(&self.node, UPLINK, self.v4, self.v6)?;
        topology::default_routes(&self.node, ROUTER_V4, ROUTER_V6)
    }
}

fn product_rules() -> Result<String> {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../image-config/files/usr/lib/m2mvpn/firewall.nft"));
    fs::read_to_string(&path)
        .map_err(|_| LabError::Missing { path, hint: "the lab runs from a checkout of the project".to_owned() })
}
