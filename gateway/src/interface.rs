//! The tunnel interface's addresses and state, over netlink, and what the kernel must be told by the administrator.

use anyhow::Context;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::{Handle, LinkUnspec};

use crate::config;

/// Gives the interface `index` the gateway's own `addresses` and sets it up. The prefix of an address makes a route to all that it covers.
///
/// # Errors
/// Names the address that the kernel refused.
pub(crate) async fn configure(index: u32, addresses: &[IpNet], mtu: u16) -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("netlink")?;
    let connection = tokio::spawn(connection);
    let outcome = configure_with(&handle, index, addresses, mtu).await;
    connection.abort();
    outcome
}

/// Says in the log which family the kernel does not forward: then devices reach the gateway and nothing behind it.
pub(crate) fn warn_without_forwarding(ranges: &config::Ranges) {
    let switches =
        [(ranges.ipv4.is_some(), "net.ipv4.ip_forward"), (ranges.ipv6.is_some(), "net.ipv6.conf.all.forwarding")];
    for (used, name) in switches {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let off = std::fs::read_to_string(&file).is_ok_and(|value| value.trim() == "0");
        if used && off {
            log::warn!("{name} is 0: devices reach this gateway and nothing behind it; set it to 1 in /etc/sysctl.d");
        }
    }
}

async fn configure_with(handle: &Handle, index: u32, addresses: &[IpNet], mtu: u16) -> anyhow::Result<()> {
    for address in addresses {
        let mut request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
        // Nobody else is on this link to have the same address.
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request
            .execute()
            .await
            .with_context(|| format!("the address {address} cannot be set on the tunnel interface"))?;
    }
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build())
        .execute()
        .await
        .context("the tunnel interface cannot be set up")
}
