//! The tunnel's routes and the rules that lead to them.
//!
//! What the kernel has is compared with what it is to have, so that repeating is harmless and what a crashed process left behind is
//! reused or removed, whoever put it there: nobody else has a business in [`TABLE`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, RouteMessageBuilder};

use super::kernel::{Because, KernelError, OrGone, code};
use super::mark::{MARK, RULE_PRIORITY, TABLE};
use super::plan::Route;

const FAMILIES: [IpVersion; 2] = [IpVersion::V4, IpVersion::V6];

/// Makes the tunnel's table hold these routes and no others; those into the tunnel leave by the interface `index`. New routes come
/// before old ones go, so that no destination falls back to the uplink in between.
///
/// # Errors
/// [`KernelError`].
pub async fn replace_routes(handle: &Handle, index: u32, wanted: &BTreeMap<IpNet, Route>) -> Result<(), KernelError> {
    let is_wanted = |found: &Found| wanted.get(&found.destination).is_some_and(|route| found.is(*route, index));
    let present: Vec<IpNet> =
        table(handle).await?.iter().filter(|found| is_wanted(found)).map(|found| found.destination).collect();
    for (destination, route) in wanted {
        if present.contains(destination) {
            continue;
        }
        let added = handle.route().add(message(*destination, *route, index)).replace().execute().await;
        match added {
            // Where the kernel has no IPv6, nothing can leave by it.
            Err(error) if code(&error) == libc::EAFNOSUPPORT && *route == Route::Unreachable => {}
            other => other.because(|| format!("route {destination} into the tunnel"))?,
        }
    }
    for found in table(handle).await? {
        if !is_wanted(&found) {
            remove(handle, found).await?;
        }
    }
    Ok(())
}

/// Empties the tunnel's table.
///
/// # Errors
/// [`KernelError`].
pub async fn remove_routes(handle: &Handle) -> Result<(), KernelError> {
    for found in table(handle).await? {
        remove(handle, found).await?;
    }
    Ok(())
}

/// Installs the rule `not fwmark MARK lookup TABLE` for both families, and removes any other rule that leads to the table. Whether a
/// rule was missing.
///
/// # Errors
/// [`KernelError`].
pub async fn install_rules(handle: &Handle) -> Result<bool, KernelError> {
    let mut was_missing = false;
    for family in FAMILIES {
        let mut installed = false;
        for found in rules(handle, family.clone()).await? {
            // The first one stays, a second one is a leftover.
            if is_ours(&found) && !installed {
                installed = true;
                continue;
            }
            remove_rule(handle, found).await?;
        }
        if installed {
            continue;
        }
        match add_rule(handle, &family).await {
            Err(error) if code(&error) == libc::EAFNOSUPPORT && family == IpVersion::V6 => {
                log::info!("the kernel has no IPv6; the tunnel carries IPv4 only");
            }
            // The guard of the rules was faster.
            Err(error) if code(&error) == libc::EEXIST => {}
            other => {
                other.because(|| format!("add the routing rule {RULE_PRIORITY}"))?;
                was_missing = true;
            }
        }
    }
    Ok(was_missing)
}

/// Removes the rules that lead to the tunnel's table.
///
/// # Errors
/// [`KernelError`].
pub async fn remove_rules(handle: &Handle) -> Result<(), KernelError> {
    for family in FAMILIES {
        for found in rules(handle, family).await? {
            remove_rule(handle, found).await?;
        }
    }
    Ok(())
}

/// A route of the tunnel's table as the kernel has it.
struct Found {
    destination: IpNet,
    message: RouteMessage,
}

impl Found {
    fn is(&self, route: Route, index: u32) -> bool {
        let has = |wanted: &RouteAttribute| self.message.attributes.contains(wanted);
        match route {
            Route::Tunnel(source) => {
                self.message.header.kind == RouteType::Unicast
                    && has(&RouteAttribute::Oif(index))
                    && has(&RouteAttribute::PrefSource(RouteAddress::from(source)))
            }
            Route::Unreachable => self.message.header.kind == RouteType::Unreachable,
            Route::Uplink => self.message.header.kind == RouteType::Throw,
        }
    }
}

async fn table(handle: &Handle) -> Result<Vec<Found>, KernelError> {
    let mut found = Vec::new();
    let queries = [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()];
    for query in queries {
        let mut routes = std::pin::pin!(handle.route().get(query).execute());
        while let Some(message) = routes.try_next().await.because(|| "list the routes".to_owned())? {
            if table_of(&message) != TABLE {
                continue;
            }
            if let Some(destination) = destination_of(&message) {
                found.push(Found { destination, message });
            }
        }
    }
    Ok(found)
}

/// The table that a route is in.
pub(super) fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or_else(|| u32::from(message.header.table))
}

/// Where a route leads; `None` for other families than IP.
pub(super) fn destination_of(message: &RouteMessage) -> Option<IpNet> {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::V4(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::V6(*address)),
        _ => None,
    });
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    IpNet::new(attribute.unwrap_or(any), message.header.destination_prefix_length).ok()
}

fn message(destination: IpNet, route: Route, index: u32) -> RouteMessage {
    let mut message = match destination {
        IpNet::V4(net) => {
            RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(net.network(), net.prefix_len()).build()
        }
        IpNet::V6(net) => {
            RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(net.network(), net.prefix_len()).build()
        }
    };
    message.header.table = 0;
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = RouteScope::Universe;
    message.attributes.push(RouteAttribute::Table(TABLE));
    match route {
        Route::Tunnel(source) => {
            message.header.kind = RouteType::Unicast;
            // An IPv4 route without gateway is one to a link (ip-route(8)).
            if destination.addr().is_ipv4() {
                message.header.scope = RouteScope::Link;
            }
            message.attributes.push(RouteAttribute::Oif(index));
            message.attributes.push(RouteAttribute::PrefSource(RouteAddress::from(source)));
        }
        Route::Unreachable => message.header.kind = RouteType::Unreachable,
        Route::Uplink => message.header.kind = RouteType::Throw,
    }
    message
}

async fn remove(handle: &Handle, found: Found) -> Result<(), KernelError> {
    let destination = found.destination;
    handle
        .route()
        .del(found.message)
        .execute()
        .await
        .or_gone()
        .because(|| format!("remove the tunnel's route to {destination}"))
}

/// The rules that lead to the tunnel's table.
async fn rules(handle: &Handle, family: IpVersion) -> Result<Vec<RuleMessage>, KernelError> {
    let all = handle.rule().get(family.clone()).execute().try_collect::<Vec<RuleMessage>>().await;
    let mut found = match all {
        Err(error) if code(&error) == libc::EAFNOSUPPORT && family == IpVersion::V6 => Vec::new(),
        other => other.because(|| "list the routing rules".to_owned())?,
    };
    found.retain(|rule| rule.attributes.contains(&RuleAttribute::Table(TABLE)));
    Ok(found)
}

fn is_ours(rule: &RuleMessage) -> bool {
    rule.header.flags.contains(RuleFlags::Invert)
        && rule.header.action == RuleAction::ToTable
        && rule.attributes.contains(&RuleAttribute::FwMark(MARK))
        && rule.attributes.contains(&RuleAttribute::Priority(RULE_PRIORITY))
}

async fn add_rule(handle: &Handle, family: &IpVersion) -> Result<(), rtnetlink::Error> {
    let mut request =
        handle.rule().add().table_id(TABLE).fw_mark(MARK).priority(RULE_PRIORITY).action(RuleAction::ToTable);
    let header = &mut request.message_mut().header;
    header.table = 0;
    header.flags = RuleFlags::Invert;
    match family {
        IpVersion::V4 => request.v4().execute().await,
        IpVersion::V6 => request.v6().execute().await,
    }
}

async fn remove_rule(handle: &Handle, rule: RuleMessage) -> Result<(), KernelError> {
    handle.rule().del(rule).execute().await.or_gone().because(|| "remove a routing rule of the tunnel".to_owned())
}
