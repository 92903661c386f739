//! What a tunnel's halves and its connection's task share.

use std::{
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::sync::watch;

use super::{
    backlog::{Backlog, Chunk},
    reason,
    transport::Socket,
};
use crate::{
    http3::{Code, ProtocolError},
    session::CloseReason,
};

/// What they share.
#[derive(Debug)]
pub(super) struct Link {
    /// Where capsules go; none before the tunnel is granted and after its end.
    outbound: Mutex<Option<SendStream<Chunk>>>,
    pub(super) backlog: Arc<Backlog>,
    pub(super) socket: Socket,
    state: watch::Sender<State>,
    /// To be woken when the state changes.
    receiver: Mutex<Option<Waker>>,
    orders: watch::Sender<Orders>,
}

/// What the connection's task has to tell.
#[derive(Debug, Default)]
pub(super) struct State {
    /// The peer's GOAWAY.
    pub(super) farewell: Option<Code>,
    /// The tunnel's end.
    pub(super) ending: Option<CloseReason>,
}

/// What the connection's task is told.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Orders {
    /// Let the peer send at full speed.
    pub(super) grant: bool,
    /// Send GOAWAY.
    pub(super) go_away: bool,
    /// End the connection.
    pub(super) close: Option<Reason>,
}

impl Link {
    pub(super) fn new(socket: Socket) -> (Arc<Self>, watch::Receiver<Orders>) {
        let (orders, orders_seen) = watch::channel(Orders::default());
        let link = Self {
            outbound: Mutex::default(),
            backlog: Arc::new(Backlog::new(socket.clone())),
            socket,
            state: watch::Sender::new(State::default()),
            receiver: Mutex::default(),
            orders,
        };
        (Arc::new(link), orders_seen)
    }

    /// The tunnel is granted: capsules go to `outbound`.
    pub(super) fn open(&self, outbound: SendStream<Chunk>) {
        *self.outbound.lock().unwrap_or_else(PoisonError::into_inner) = Some(outbound);
        self.orders.send_modify(|orders| orders.grant = true);
    }

    /// Queues whole capsules for sending, whatever the room.
    pub(super) fn send(&self, capsules: Bytes) -> Result<(), CloseReason> {
        let broken = {
            let mut outbound = self.outbound.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(stream) = outbound.as_mut() else {
                return Err(self.ended().unwrap_or(CloseReason::Local));
            };
            match stream.send_data(self.backlog.enter(capsules), false) {
                Ok(()) => return Ok(()),
                // It says no more than that the stream takes nothing any more.
                Err(error) => {
                    why_broken(stream, &self.socket).unwrap_or_else(|| reason::of_error(&error, &self.socket))
                }
            }
        };
        self.close(broken.clone(), Reason::CANCEL);
        Err(self.ended().unwrap_or(broken))
    }

    /// Why the stream is broken, if it is.
    pub(super) fn why_broken(&self) -> Option<CloseReason> {
        let mut outbound = self.outbound.lock().unwrap_or_else(PoisonError::into_inner);
        outbound.as_mut().and_then(|stream| why_broken(stream, &self.socket))
    }

    /// Ends the tunnel and its connection, telling the peer `why`. Only the first end counts.
    pub(super) fn close(&self, ending: CloseReason, why: Reason) {
        if !self.end(ending) {
            return;
        }
        if let Some(mut stream) = self.outbound.lock().unwrap_or_else(PoisonError::into_inner).take() {
            stream.send_reset(why);
        }
        self.orders.send_modify(|orders| orders.close = Some(why));
    }

    /// Ends the tunnel because of what the peer did.
    pub(super) fn fail(&self, error: ProtocolError) {
        log::debug!("protocol error of the peer: {error}");
        let why = reason::from_code(error.code);
        self.close(CloseReason::Protocol { code: error.code, reason: error.reason.into_owned() }, why);
    }

    /// The tunnel is over; whether it was not before.
    pub(super) fn end(&self, ending: CloseReason) -> bool {
        let is_first = self.change(|state| state.ending.is_none().then(|| state.ending = Some(ending)));
        self.backlog.close();
        is_first
    }

    pub(super) fn ended(&self) -> Option<CloseReason> {
        self.state.borrow().ending.clone()
    }

    /// Waits for the end. Cancel safe.
    pub(super) async fn ending(&self) -> CloseReason {
        let mut state = self.state.subscribe();
        let ended = state.wait_for(|state| state.ending.is_some()).await;
        // The sender of the state is here, so waiting does not fail.
        ended.ok().and_then(|state| state.ending.clone()).unwrap_or(CloseReason::Local)
    }

    /// The peer sent GOAWAY.
    pub(super) fn bid_farewell(&self, code: Code) {
        self.change(|state| state.farewell.is_none().then(|| state.farewell = Some(code)));
    }

    pub(super) fn farewell(&self) -> Option<Code> {
        self.state.borrow().farewell
    }

    /// Calls the receiver when the peer sends GOAWAY, and at the end. Only one task can wait.
    pub(super) fn call_receiver(&self, waker: &Waker) {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        match receiver.as_mut() {
            Some(former) => former.clone_from(waker),
            None => *receiver = Some(waker.clone()),
        }
    }

    /// Changes the state, or not; whether it did.
    fn change(&self, change: impl FnOnce(&mut State) -> Option<()>) -> bool {
        let is_changed = self.state.send_if_modified(|state| change(state).is_some());
        let receiver =
            if is_changed { self.receiver.lock().unwrap_or_else(PoisonError::into_inner).take() } else { None };
        if let Some(receiver) = receiver {
            receiver.wake();
        }
        is_changed
    }

    pub(super) fn go_away(&self) {
        self.orders.send_modify(|orders| orders.go_away = true);
    }
}

fn why_broken(stream: &mut SendStream<Chunk>, socket: &Socket) -> Option<CloseReason> {
    match stream.poll_reset(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(why)) => Some(CloseReason::Peer { code: reason::to_code(why), reason: String::new() }),
        Poll::Ready(Err(error)) => Some(reason::of_error(&error, socket)),
        Poll::Pending => None,
    }
}

/// Closes the tunnel when dropped.
#[derive(Debug)]
pub(super) struct Owner(pub(super) Arc<Link>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.close(CloseReason::Local, Reason::NO_ERROR);
    }
}
