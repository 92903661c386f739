//! Puts the routing rules back when somebody removes them: without them the company's traffic would take the uplink. systemd-networkd
//! removes what it did not make when it restarts, unless it is told to leave foreign rules alone.

use std::time::Duration;

use futures_util::StreamExt;
use rtnetlink::{MulticastGroup, new_multicast_connection};

use super::kernel::KernelError;
use super::routes::install_rules;

/// How long to wait before looking again: somebody who keeps removing the rules does not get all of the processor.
const PAUSE: Duration = Duration::from_millis(200);

/// Guards the rules until it is dropped.
pub(super) async fn guard() {
    loop {
        if let Err(error) = guard_once().await {
            log::error!("cannot guard the routing rules of the tunnel: {error}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn guard_once() -> Result<(), KernelError> {
    let (connection, handle, mut events) =
        new_multicast_connection(&[MulticastGroup::Ipv4Rule, MulticastGroup::Ipv6Rule])
            .map_err(|error| KernelError::socket(&error))?;
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            () = &mut connection => return Ok(()),
            installed = install_rules(&handle) => {
                if installed? {
                    log::warn!("somebody had removed the routing rules of the tunnel; they are back");
                }
            }
        }
        tokio::select! {
            () = &mut connection => return Ok(()),
            event = events.next() => if event.is_none() {
                return Ok(());
            },
        }
        tokio::select! {
            () = &mut connection => return Ok(()),
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
