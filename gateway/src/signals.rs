//! What the administrator, or systemd, tells the running program.

use anyhow::Context;
use tokio::signal::unix::{self, SignalKind};

/// A request by signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGHUP: read the revocation list now.
    Reload,
    /// SIGTERM or SIGINT.
    Stop,
}

/// The signals that the gateway listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: unix::Signal,
    terminate: unix::Signal,
    interrupt: unix::Signal,
}

impl Signals {
    /// From now on signals are requests.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let signal = |kind| unix::signal(kind).context("signal handler");
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next request. Cancel safe.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}
