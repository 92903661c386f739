//! The task that moves the packets of a tunnel.

use std::sync::Arc;
use std::time::Duration;

use m2m_tunnel::carrier::{self, Command, Notice};
use m2m_tunnel::tun::Tun;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the farewell may take to leave the machine: it is sent at once, and nobody waits for an answer.
const FAREWELL: Duration = Duration::from_millis(100);

/// The task; it ends with this.
pub(super) struct Carrier {
    /// What it tells.
    pub(super) notices: mpsc::UnboundedReceiver<Notice>,
    commands: Option<mpsc::UnboundedSender<Command>>,
    task: JoinHandle<carrier::End>,
}

impl Carrier {
    /// `None` when the interface has no queue.
    pub(super) fn start(tun: &Tun, counters: Arc<carrier::Counters>) -> Option<Self> {
        let queue = tun.queues().into_iter().next()?;
        let (commands, heard) = mpsc::unbounded_channel();
        let (told, notices) = mpsc::unbounded_channel();
        let task = tokio::spawn(carrier::run(queue, heard, told, counters));
        Some(Self { notices, commands: Some(commands), task })
    }

    pub(super) fn tell(&self, command: Command) {
        // A carrier that has ended says so by its notices.
        let _ = self.commands.as_ref().map(|commands| commands.send(command));
    }

    /// Why it ended, once its notices have.
    pub(super) async fn end(&mut self) -> String {
        match (&mut self.task).await {
            Ok(end) => end.to_string(),
            Err(error) => error.to_string(),
        }
    }

    /// Says farewell to the gateways.
    pub(super) async fn stop(mut self) {
        self.commands = None;
        let _ = timeout(FAREWELL, &mut self.task).await;
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.task.abort();
    }
}
