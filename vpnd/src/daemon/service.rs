//! What systemd is told: readiness, the state in words, and signs of life.

use std::future::pending;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::state::StateName;

/// The service as systemd sees it. Does nothing where systemd is not.
pub(super) struct Service {
    watchdog: Option<Interval>,
}

impl Service {
    /// Tells that the daemon can be used.
    pub(super) fn ready() -> Self {
        notify(&[NotifyState::Ready]);
        let watchdog = sd_notify::watchdog_enabled().map(|limit| {
            let mut ticks = interval((limit / 3).max(Duration::from_millis(100)));
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        });
        Self { watchdog }
    }

    /// The state, for `systemctl status`.
    pub(super) fn status(&self, state: StateName, cause: Option<&str>) {
        let text = match cause {
            Some(cause) => format!("{state}: {cause}"),
            None => state.to_string(),
        };
        notify(&[NotifyState::Status(&text)]);
    }

    /// Resolves when it is time for a sign of life; cancel safe.
    pub(super) async fn watchdog_due(&mut self) {
        match &mut self.watchdog {
            Some(ticks) => drop(ticks.tick().await),
            None => pending().await,
        }
    }

    /// A sign of life.
    pub(super) fn ping(&self) {
        notify(&[NotifyState::Watchdog]);
    }

    /// Tells that the daemon is about to end.
    pub(super) fn stopping(&self) {
        notify(&[NotifyState::Stopping]);
    }
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::debug!("systemd cannot be told: {error}");
    }
}
