use std::time::Duration;

use crate::{
    ChildHandle, Node, Result,
    addresses::{
        COMPANY_DOMAIN, DEVICE_NETWORK_V6, GATEWAY_NAME, GATEWAY_V4, GATEWAY_V6, GATEWAY2_NAME, GATEWAY2_V4,
        GATEWAY2_V6, INTRANET_NAME, INTRANET_V4, INTRANET_V6, MANAGER_NAME, MANAGER_V4, MANAGER_V6, PREFIX_V6,
        ROUTER_V4, ROUTER_V6,
    },
    holder::WORK_DIR,
    topology::{COMPANY, DEVICE_LINK},
};

const START: Duration = Duration::from_secs(10);

/// DHCPv4, router advertisements, stateless DHCPv6 and DNS for the device link.
///
/// The DNS knows the gateways and the manager and has no upstream: any other name is refused.
pub(crate) fn serve_uplink(internet: &Node) -> Result<ChildHandle> {
    let configuration = format!(
        "{common}interface={DEVICE_LINK}
dhcp-authoritative
no-ping
dhcp-leasefile={WORK_DIR}/dhcp.leases
dhcp-range=192.0.2.20,192.0.2.99,1h
dhcp-option=option:router,{ROUTER_V4}
dhcp-option=option:dns-server,{ROUTER_V4}
dhcp-option=option:ntp-server,{ROUTER_V4}
enable-ra
dhcp-range={DEVICE_NETWORK_V6},ra-stateless,{PREFIX_V6},1h
dhcp-option=option6:dns-server,[{ROUTER_V6}]
dhcp-option=option6:ntp-server,[{ROUTER_V6}]
host-record={GATEWAY_NAME},{GATEWAY_V4},{GATEWAY_V6}
host-record={GATEWAY2_NAME},{GATEWAY2_V4},{GATEWAY2_V6}
host-record={MANAGER_NAME},{MANAGER_V4},{MANAGER_V6}
",
        common = common("internet")
    );
    serve(internet, "uplink-dns", &configuration)
}

/// DNS inside of the company.
pub(crate) fn serve_company(company: &Node) -> Result<ChildHandle> {
    let configuration = format!(
        "{common}interface={COMPANY}
local=/{COMPANY_DOMAIN}/
host-record={INTRANET_NAME},{INTRANET_V4},{INTRANET_V6}
",
        common = common("company")
    );
    serve(company, "company-dns", &configuration)
}

fn serve(node: &Node, name: &str, configuration: &str) -> Result<ChildHandle> {
    let file = node.write_file(&format!("{name}.conf"), configuration)?;
    let mut command = node.command("dnsmasq");
    command.arg("--keep-in-foreground").arg(format!("--conf-file={}", file.display()));
    let mut server = node.spawn(name, &mut command)?;
    server.wait_for_log("started, version", START)?;
    Ok(server)
}

fn common(node: &str) -> String {
    format!(
        "user=root
group=root
pid-file={WORK_DIR}/{node}-dnsmasq.pid
no-hosts
no-resolv
no-poll
bind-interfaces
except-interface=lo
log-facility=-
log-queries
"
    )
}
