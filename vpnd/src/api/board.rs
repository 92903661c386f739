//! Where the daemon writes what it is doing, and the API reads it.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use m2m_tunnel::carrier;

use super::{Authentication, Counters, Method, Milestones, Outcome, Status};
use crate::certificate::Summary;
use crate::clock::boot_time;
use crate::network::Applied;
use crate::state::{State, StateName};

/// The status, kept up to date by the daemon.
#[derive(Debug)]
pub struct Board {
    status: Mutex<Status>,
    tunnel: Mutex<Applied>,
    counters: Arc<carrier::Counters>,
}

impl Default for Board {
    fn default() -> Self {
        let now = boot_time();
        let status = Status {
            state: StateName::NotProvisioned,
            cause: None,
            device_id: None,
            gateway: None,
            addresses: Vec::new(),
            routes: Vec::new(),
            dns: Vec::new(),
            since: now,
            counters: Counters::default(),
            milestones: Milestones { started: Some(now), ..Milestones::default() },
            certificate: None,
            authentication: Authentication::default(),
        };
        Self { status: Mutex::new(status), tunnel: Mutex::default(), counters: Arc::default() }
    }
}

impl Board {
    /// The status at this moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let mut status = lock(&self.status).clone();
        status.counters = Counters {
            tx_bytes: self.counters.tx_bytes.load(Relaxed),
            rx_bytes: self.counters.rx_bytes.load(Relaxed),
            tx_packets: self.counters.tx_packets.load(Relaxed),
            rx_packets: self.counters.rx_packets.load(Relaxed),
        };
        if status.state == StateName::Connected {
            let tunnel = lock(&self.tunnel);
            status.addresses.clone_from(&tunnel.addresses);
            status.routes.clone_from(&tunnel.routes);
            status.dns.clone_from(&tunnel.dns);
        }
        status
    }

    /// The counters of all tunnels of this run.
    #[must_use]
    pub fn counters(&self) -> Arc<carrier::Counters> {
        Arc::clone(&self.counters)
    }

    /// How this device proves who it is.
    pub(crate) fn set_authentication(&self, method: Method, key: String) {
        lock(&self.status).authentication = Authentication { method, key, last: None };
    }

    pub(crate) fn set_state(&self, state: &State) {
        let mut status = lock(&self.status);
        if let Some(outcome) = outcome(state) {
            status.authentication.last = Some(outcome);
        }
        if status.state != state.name() {
            status.state = state.name();
            status.since = boot_time();
        }
        status.cause = state.cause();
        status.gateway = state.gateway().cloned();
        if status.state == StateName::Connected {
            status.milestones.tunnel_up.get_or_insert_with(boot_time);
        }
    }

    /// Whether addresses or routes are others than before.
    pub(crate) fn set_tunnel(&self, tunnel: Applied) -> bool {
        let former = std::mem::replace(&mut *lock(&self.tunnel), tunnel);
        let current = lock(&self.tunnel);
        former.addresses != current.addresses || former.routes != current.routes
    }

    pub(crate) fn set_member(&self, device_id: Option<String>, certificate: Option<Summary>) {
        let mut status = lock(&self.status);
        status.device_id = device_id;
        status.certificate = certificate;
    }

    pub(crate) fn key_made(&self) {
        lock(&self.status).milestones.key_made = Some(boot_time());
    }

    pub(crate) fn enrolled(&self) {
        lock(&self.status).milestones.enrolled = Some(boot_time());
    }
}

/// What a state says of the device's authentication. That there is no network, or no answer, says nothing.
fn outcome(state: &State) -> Option<Outcome> {
    match state.name() {
        StateName::Connected => Some(Outcome { accepted: true, reason: None, at: boot_time() }),
        StateName::NotProvisioned | StateName::PendingApproval | StateName::Error => {
            Some(Outcome { accepted: false, reason: state.cause(), at: boot_time() })
        }
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
