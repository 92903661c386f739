//! A tunnel over HTTP/2 with its queue and its tasks: what a QUIC session does in one task takes three here, for TCP and h2 want to be
//! awaited.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc},
    time::{sleep_until, timeout},
};

use crate::{
    http2::{Control, Http2Tunnel, Pinger, Received, Receiver, Sender},
    queue::Queue,
    session::{CloseReason, Event},
};

/// Bytes of packets that may wait for the path.
const QUEUE: usize = 1 << 20;

/// What may wait for whoever takes it; TCP holds back the rest.
const INCOMING: usize = 16;

/// How long what was sent may have no answer before the peer is asked, and how long the answer may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// What comes out of a lane.
#[derive(Debug)]
pub enum Incoming {
    /// IP packets, as the peer sent them.
    Packets(Vec<Bytes>),
    /// What happened; [`Event::Closed`] is the last.
    Event(Event),
}

/// The sending end of a tunnel over HTTP/2; cheap to clone. The tunnel is closed when all are dropped.
#[derive(Debug, Clone)]
pub struct Lane(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    control: Control,
    queue: Mutex<Queue>,
    filled: Notify,
    activity: Mutex<Activity>,
    /// The activity is not what it was.
    changed: Notify,
}

#[derive(Debug)]
struct Activity {
    keepalive: Option<Duration>,
    last: Instant,
    /// When the first was sent of what has no answer.
    waiting_since: Option<Instant>,
    /// Somebody wants to know of the next answer.
    is_asked: bool,
}

impl Lane {
    /// Starts the tasks of an open tunnel.
    #[must_use]
    pub fn start(tunnel: Http2Tunnel) -> (Self, mpsc::Receiver<Incoming>) {
        let Http2Tunnel { sender, receiver, pinger, control } = tunnel;
        let activity = Activity { keepalive: None, last: Instant::now(), waiting_since: None, is_asked: false };
        let shared = Arc::new(Shared {
            control: control.clone(),
            queue: Mutex::new(Queue::new(QUEUE, 0)),
            filled: Notify::new(),
            activity: Mutex::new(activity),
            changed: Notify::new(),
        });
        let (incoming, taken) = mpsc::channel(INCOMING);
        // They end with the tunnel, which ends with the last lane.
        tokio::spawn(send(Arc::downgrade(&shared), control.clone(), sender));
        tokio::spawn(look_after(Arc::downgrade(&shared), control, pinger, incoming.clone()));
        tokio::spawn(receive(Arc::downgrade(&shared), receiver, incoming));
        (Self(shared), taken)
    }

    /// Queues an IP packet. Best effort as IP is: the queue may lose it, or another one.
    pub fn send(&self, packet: Bytes, now: Instant) {
        lock(&self.0.queue).push(packet, now);
        self.0.filled.notify_one();
    }

    /// The packets that wait in the queue.
    #[must_use]
    pub fn take_waiting(&self, now: Instant) -> Vec<Bytes> {
        let mut queue = lock(&self.0.queue);
        std::iter::from_fn(|| queue.pop(now)).collect()
    }

    /// What can be told to the peer.
    #[must_use]
    pub fn control(&self) -> Control {
        self.0.control.clone()
    }

    /// The silence, in both directions, after which a ping is sent; `None` for no pings.
    pub fn set_keepalive(&self, interval: Option<Duration>) {
        lock(&self.0.activity).keepalive = interval;
        self.0.changed.notify_one();
    }

    /// Sends a ping now: [`Event::Answers`] or [`Event::Silent`] tells whether the peer is there.
    pub fn ping(&self) {
        lock(&self.0.activity).is_asked = true;
        self.0.changed.notify_one();
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.control.close(crate::http3::Code::NO_ERROR, "nobody needs the tunnel any more");
    }
}

type Weak = std::sync::Weak<Shared>;

async fn send(shared: Weak, control: Control, mut sender: Sender) {
    loop {
        let Some(lane) = shared.upgrade() else { return };
        let is_empty = lock(&lane.queue).is_empty();
        if is_empty {
            let filled = lane.filled.notified();
            tokio::select! {
                () = filled => {}
                _ = control.closed() => return,
            }
            continue;
        }
        drop(lane);
        if sender.ready().await.is_err() {
            return;
        }
        let Some(lane) = shared.upgrade() else { return };
        let now = Instant::now();
        let sent = {
            let mut queue = lock(&lane.queue);
            sender.try_send(&mut std::iter::from_fn(|| queue.pop(now)))
        };
        match sent {
            // The queue had nothing but what it dropped.
            Ok(0) => {}
            Ok(_) => lane.sent(now),
            Err(_) => return,
        }
    }
}

async fn receive(shared: Weak, mut receiver: Receiver, incoming: mpsc::Sender<Incoming>) {
    let mut packets = Vec::new();
    loop {
        let received = match receiver.recv(&mut packets).await {
            Ok(Received::Packets(_)) => Incoming::Packets(std::mem::take(&mut packets)),
            Ok(Received::Event(event)) => Incoming::Event(event),
            Err(reason) => Incoming::Event(Event::Closed(reason)),
        };
        if let Some(lane) = shared.upgrade() {
            lane.received(Instant::now());
        }
        let is_over = matches!(received, Incoming::Event(Event::Closed(_)));
        if incoming.send(received).await.is_err() || is_over {
            return;
        }
    }
}

/// Pings when it is time to, and tells when nobody answers.
async fn look_after(shared: Weak, control: Control, mut pinger: Pinger, incoming: mpsc::Sender<Incoming>) {
    loop {
        let Some(lane) = shared.upgrade() else { return };
        let (due, silence, is_asked) = lane.next_ping();
        let now = Instant::now();
        if due.is_none_or(|due| due > now) && !is_asked {
            let changed = lane.changed.notified();
            tokio::select! {
                () = changed => {}
                () = sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
                _ = control.closed() => return,
            }
            continue;
        }
        lock(&lane.activity).is_asked = false;
        drop(lane);
        let Ok(news) = ping(&mut pinger, silence, is_asked, &incoming).await else { return };
        let Some(lane) = shared.upgrade() else { return };
        lane.received(Instant::now());
        if let Some(news) = news
            && incoming.send(Incoming::Event(news)).await.is_err()
        {
            return;
        }
    }
}

/// What the answer means.
async fn ping(
    pinger: &mut Pinger,
    silence: Option<Duration>,
    is_asked: bool,
    incoming: &mpsc::Sender<Incoming>,
) -> Result<Option<Event>, CloseReason> {
    if let Ok(answer) = timeout(PATIENCE, pinger.ping()).await {
        answer?;
        return Ok(if is_asked { Some(Event::Answers) } else { silence.map(Event::BindingKept) });
    }
    // Nobody listens when the lane is about to end.
    let _ = incoming.send(Incoming::Event(Event::Silent(PATIENCE))).await;
    pinger.ping().await?;
    Ok(Some(Event::Answers))
}

impl Shared {
    fn sent(&self, now: Instant) {
        let mut activity = lock(&self.activity);
        activity.last = now;
        if activity.waiting_since.is_none() {
            activity.waiting_since = Some(now);
            self.changed.notify_one();
        }
    }

    fn received(&self, now: Instant) {
        let mut activity = lock(&self.activity);
        activity.last = now;
        activity.waiting_since = None;
    }

    /// When a ping is due; the silence that it ends, if it is one that keeps the path alive; whether somebody asked for it.
    fn next_ping(&self) -> (Option<Instant>, Option<Duration>, bool) {
        let activity = lock(&self.activity);
        if let Some(since) = activity.waiting_since {
            return (Some(since + PATIENCE), None, activity.is_asked);
        }
        let due = activity.keepalive.map(|interval| activity.last + interval);
        (due, activity.keepalive, activity.is_asked)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
