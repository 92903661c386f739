//! Routes to the devices that are connected here, in the kernel's main table: a routing daemon on the same machine passes them on, and
//! the company's packets for a device come to the gateway that the device is at (reverse route injection).
//!
//! | route | protocol | metric | while |
//! |---|---|---|---|
//! | each address of a device, to the tunnel interface | [`PROTOCOL`] | 4294967295 - seconds since 1970 when the session began | the session lasts |
//! | the pool, unreachable | [`PROTOCOL`] | 4294967295 | from the gateway's start, also after its end |
//!
//! A device that is at two gateways for a while, at one of them with a session that is dead already, is best reached through the newer
//! session: its route has the lower metric, which a routing daemon can carry to the others. What is for a device that is nowhere finds
//! the unreachable route, and not the default route back to where it came from.

mod kernel;
mod ledger;

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, stream};
use ipnet::IpNet;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::config::{Inject, Ranges};
use crate::pool::Addresses;

use kernel::{Kernel, KernelError};
use ledger::{Ledger, Route, Target};

/// The number by which `ip route` and routing daemons know the gateway's routes (`proto 109`, RTPROT in rtnetlink(7)); nobody else is
/// known to use it.
pub(crate) const PROTOCOL: u8 = 0x6d;

/// Which routes are to be there. To say so never waits; [`run`] brings the kernel to it.
#[derive(Debug)]
pub(crate) struct RouteInjection {
    inject: Inject,
    ranges: Ranges,
    interface: u32,
    ledger: Mutex<Ledger>,
    changed: Notify,
}

impl RouteInjection {
    /// No device is connected; `interface` is the index of the tunnel interface.
    pub(crate) fn new(inject: Inject, ranges: Ranges, interface: u32) -> Self {
        let mut ledger = Ledger::default();
        if inject == Inject::HostRoutes {
            for destination in ranges.prefixes() {
                ledger.want(Route { destination, metric: u32::MAX, target: Target::Nowhere });
            }
        }
        Self { inject, ranges, interface, ledger: Mutex::new(ledger), changed: Notify::new() }
    }

    /// The gateway's `own` addresses as the tunnel interface is to have them: with the prefixes of the pool, which make the route to all
    /// devices, or without a prefix where each device has its route.
    pub(crate) fn interface_addresses(&self, own: &Addresses) -> Vec<IpNet> {
        own.iter()
            .zip(self.ranges.prefixes())
            .filter_map(|(address, range)| match self.inject {
                Inject::Pool => IpNet::new(address, range.prefix_len()).ok(),
                Inject::HostRoutes => Some(IpNet::from(address)),
            })
            .collect()
    }

    /// A session that began at `since` is the one of `addresses` now, instead of one that had the addresses `former`. To be called in the
    /// order of the changes to the table of sessions.
    pub(crate) fn joined(&self, addresses: &Addresses, former: Option<&Addresses>, since: SystemTime) {
        if self.inject == Inject::Pool {
            return;
        }
        let metric = metric(since);
        let mut ledger = self.ledger();
        for address in former.into_iter().flat_map(Addresses::iter) {
            if !addresses.contains(address) {
                ledger.unwant(IpNet::from(address));
            }
        }
        for address in addresses.iter() {
            ledger.want(Route { destination: IpNet::from(address), metric, target: Target::Tunnel });
        }
        drop(ledger);
        self.changed.notify_one();
    }

    /// No session has `addresses` any more.
    pub(crate) fn left(&self, addresses: &Addresses) {
        if self.inject == Inject::Pool {
            return;
        }
        let mut ledger = self.ledger();
        for address in addresses.iter() {
            ledger.unwant(IpNet::from(address));
        }
        drop(ledger);
        self.changed.notify_one();
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until the kernel refuses something.
    async fn keep(&self) -> Result<Infallible, KernelError> {
        let kernel = Kernel::connect(self.interface)?;
        loop {
            let found = kernel.routes(&self.ranges).await?;
            self.ledger().found(found);
            let look_again = Instant::now() + LOOK_EVERY;
            loop {
                self.settle(&kernel).await?;
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep_until(look_again) => break,
                }
            }
        }
    }

    /// Brings the kernel to what is wanted, new routes before old ones go.
    async fn settle(&self, kernel: &Kernel) -> Result<(), KernelError> {
        loop {
            let destinations = self.ledger().take(BATCH);
            if destinations.is_empty() {
                return Ok(());
            }
            let missing = self.ledger().missing(&destinations);
            let added = stream::iter(missing).map(|route| async move { (route, kernel.add(route).await) });
            self.note(added.buffer_unordered(AT_ONCE), Ledger::added).await?;
            let surplus = self.ledger().surplus(&destinations);
            let removed = stream::iter(surplus).map(|route| async move { (route, kernel.remove(route).await) });
            self.note(removed.buffer_unordered(AT_ONCE), Ledger::removed).await?;
        }
    }

    /// Keeps the ledger of what was done; the first error, once all are through.
    async fn note(
        &self,
        outcomes: impl StreamExt<Item = (Route, Result<(), KernelError>)>,
        done: impl Fn(&mut Ledger, Route),
    ) -> Result<(), KernelError> {
        let mut outcomes = std::pin::pin!(outcomes);
        let mut first = Ok(());
        while let Some((route, outcome)) = outcomes.next().await {
            match outcome {
                Ok(()) => done(&mut self.ledger(), route),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }
}

/// Makes the kernel's routes what they are to be, and keeps them so, for as long as the gateway runs. What another gateway on this machine
/// left behind is removed first, whatever the configuration.
pub(crate) async fn run(routes: Arc<RouteInjection>) -> io::Error {
    loop {
        let Err(error) = routes.keep().await;
        log::error!("{error}; tried again in {} s", PAUSE.as_secs());
        tokio::time::sleep(PAUSE).await;
    }
}

/// After an error.
const PAUSE: Duration = Duration::from_secs(1);
/// How often the kernel is asked what it has, in case somebody else took routes away, or the interface was down.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Routes that are added before others are removed: neither waits long for the other.
const BATCH: usize = 1024;
/// Requests that wait for the kernel's answer; all answers fit into the socket's buffer.
const AT_ONCE: usize = 64;

/// Lower for a session that began later.
fn metric(since: SystemTime) -> u32 {
    let seconds = since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::MAX - u32::try_from(seconds).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
