//! The tunnel interface's addresses and state, over netlink, and what the kernel must be told by the administrator.

use anyhow::Context;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::{Handle, LinkUnspec};

use crate::config;
use crate::pool::Addresses;

/// Gives the interface `index` the gateway's addresses with the prefixes of the pool, and sets it up. The prefixes make the routes to
/// all devices.
///
/// # Errors
/// Names the address that the kernel refused.
pub(crate) async fn configure(index: u32, own: &Addresses, pool: &config::Ranges, mtu: u16) -> anyhow::Result<()> {
    let (connection, handle, _) = rtnetlink::new_connection().context("netlink")?;
    let connection = tokio::spawn(connection);
    let outcome = configure_with(&handle, index, own, pool, mtu).await;
    connection.abort();
    outcome
}

/// Says in the log which family the kernel does not forward: then devices reach the gateway and nothing behind it.
pub(crate) fn warn_without_forwarding(pool: &config::Ranges) {
    let switches =
        [(pool.ipv4.is_some(), "net.ipv4.ip_forward"), (pool.ipv6.is_some(), "net.ipv6.conf.all.forwarding")];
    for (used, name) in switches {
        let file = format!("/proc/sys/{}", name.replace('.', "/"));
        let off = std::fs::read_to_string(&file).is_ok_and(|value| value.trim() == "0");
        if used && off {
            log::warn!("{name} is 0: devices reach this gateway and nothing behind it; set it to 1 in /etc/sysctl.d");
        }
    }
}

async fn configure_with(
    handle: &Handle,
    index: u32,
    own: &Addresses,
    pool: &config::Ranges,
    mtu: u16,
) -> anyhow::Result<()> {
    let prefix_lengths =
        pool.ipv4.map(|range| range.prefix_len()).into_iter().chain(pool.ipv6.map(|range| range.prefix_len()));
    for (address, prefix_length) in own.iter().zip(prefix_lengths) {
        let mut request = handle.address().add(index, address, prefix_length).replace();
        // Nobody else is on this link to have the same address.
        request.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        request
            .execute()
            .await
            .with_context(|| format!("the address {address}/{prefix_length} cannot be set on the tunnel interface"))?;
    }
    handle
        .link()
        .set(LinkUnspec::new_with_index(index).mtu(mtu.into()).up().build())
        .execute()
        .await
        .context("the tunnel interface cannot be set up")
}
