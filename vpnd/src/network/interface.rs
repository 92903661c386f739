//! The tunnel interface's MTU, state and addresses.

use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute};
use rtnetlink::{Handle, LinkUnspec};

use super::kernel::{Because, KernelError, OrGone};

/// Sets MTU and addresses and brings the interface up. Addresses that it has besides stay, for [`remove_other_addresses`].
///
/// # Errors
/// [`KernelError`].
pub async fn set_up(handle: &Handle, index: u32, mtu: u16, addresses: &[IpNet]) -> Result<(), KernelError> {
    // Without this the kernel makes a link-local address and sends router solicitations into the tunnel. Has to come before "up"; where
    // the kernel has no IPv6 it fails, and is not needed.
    let quiet = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]))
        .build();
    if let Err(error) = handle.link().change(quiet).execute().await {
        log::debug!("interface {index} keeps its IPv6 link-local address: {error}");
    }
    let up = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).up().build();
    handle.link().change(up).execute().await.because(|| format!("set interface {index} up with an MTU of {mtu}"))?;
    for address in addresses {
        let mut request = handle.address().add(index, address.addr(), address.prefix_len()).replace();
        // There is nobody on the link who could have the same address, nor a neighbour to route to.
        let flags = AddressFlags::Nodad | AddressFlags::Noprefixroute;
        request.message_mut().attributes.push(AddressAttribute::Flags(flags));
        request.execute().await.because(|| format!("give interface {index} the address {address}"))?;
    }
    Ok(())
}

/// Removes every address but these.
///
/// # Errors
/// [`KernelError`].
pub async fn remove_other_addresses(handle: &Handle, index: u32, keep: &[IpNet]) -> Result<(), KernelError> {
    let found: Vec<AddressMessage> = handle
        .address()
        .get()
        .set_link_index_filter(index)
        .execute()
        .try_collect()
        .await
        .because(|| format!("list the addresses of interface {index}"))?;
    for message in found {
        let Some(address) = address_of(&message) else { continue };
        if keep.contains(&address) {
            continue;
        }
        handle
            .address()
            .del(message)
            .execute()
            .await
            .or_gone()
            .because(|| format!("take the address {address} from interface {index}"))?;
    }
    Ok(())
}

/// The address in a message of the kernel.
#[must_use]
pub fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let attribute = |pick: fn(&AddressAttribute) -> Option<IpAddr>| message.attributes.iter().find_map(pick);
    // On a point-to-point link the kernel's "address" is the peer's, and "local" the own one.
    let local = attribute(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let address = local.or_else(|| {
        attribute(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })?;
    IpNet::new(address, message.header.prefix_len).ok()
}
