//! One attempt at a time, each after the former one has cleaned up.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::device::Device;
use super::{admission, look, tunnel};
use crate::state::{Attempt, Command, Event};

/// How long the last attempt may take to close its tunnel when the daemon ends.
const FAREWELL: Duration = Duration::from_secs(5);

pub(super) struct Tasks {
    device: Arc<Device>,
    events: mpsc::Sender<Event>,
    running: Option<(Attempt, StopHandle)>,
    /// The end of the chain: each task waits for the one before it.
    last: Option<JoinHandle<()>>,
    /// A tunnel was begun, so there may be an interface.
    interface: bool,
}

/// Stops a task when it is dropped.
struct StopHandle {
    _sender: oneshot::Sender<()>,
}

/// Tells a task when it is to stop.
pub(super) struct Stop(oneshot::Receiver<()>);

impl Stop {
    /// Resolves when the task is to stop; cancel safe.
    pub(super) async fn requested(&mut self) {
        // Nothing is ever sent: the sender's end is the message.
        let _ = (&mut self.0).await;
    }
}

impl Tasks {
    pub(super) fn new(device: Arc<Device>, events: mpsc::Sender<Event>) -> Self {
        Self { device, events, running: None, last: None, interface: false }
    }

    pub(super) fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            let (device, events) = (Arc::clone(&self.device), self.events.clone());
            match command {
                Command::Stop { attempt } => {
                    if self.running.as_ref().is_some_and(|(running, _)| *running == attempt) {
                        self.running = None;
                    }
                }
                Command::Look { attempt } => self.begin(attempt, |mut stop| async move {
                    tokio::select! {
                        () = stop.requested() => {}
                        result = look::look(&device) => send(&events, Event::Looked { attempt, result }).await,
                    }
                }),
                Command::Enrol { attempt } => self.begin(attempt, |mut stop| async move {
                    tokio::select! {
                        () = stop.requested() => {}
                        result = admission::enrol(&device) => send(&events, Event::Enrolment { attempt, result }).await,
                    }
                }),
                Command::Connect { attempt } => {
                    self.interface = true;
                    self.begin(attempt, |stop| async move { tunnel::run(&device, attempt, &events, stop).await });
                }
            }
        }
    }

    /// Removes the tunnel's interface after whatever still uses it has ended.
    pub(super) fn take_down_interface(&mut self) {
        if !std::mem::take(&mut self.interface) {
            return;
        }
        let device = Arc::clone(&self.device);
        self.chain(async move { device.take_down_interface().await });
    }

    /// Stops what runs and waits for it.
    pub(super) async fn end(&mut self) {
        self.running = None;
        if let Some(last) = self.last.take()
            && timeout(FAREWELL, last).await.is_err()
        {
            log::warn!("the last attempt did not end in time");
        }
    }

    fn begin<F>(&mut self, attempt: Attempt, work: impl FnOnce(Stop) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        self.running = Some((attempt, StopHandle { _sender: sender }));
        self.chain(work(Stop(receiver)));
    }

    fn chain(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let former = self.last.take();
        self.last = Some(tokio::spawn(async move {
            if let Some(former) = former
                && let Err(error) = former.await
            {
                log::error!("a task of the daemon failed: {error}");
            }
            work.await;
        }));
    }
}

pub(super) async fn send(events: &mpsc::Sender<Event>, event: Event) {
    // The daemon's loop has ended: nobody is interested any more.
    let _ = events.send(event).await;
}
