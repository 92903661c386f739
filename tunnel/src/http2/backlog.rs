//! What waits for the socket: counted to the byte, bounded by how long it waits.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::{pace::Pace, transport::Socket};

/// Bytes that may wait before it is known what the path carries.
const FIRST_LIMIT: usize = 16 * 1024;

/// One packet, of whatever size.
const MIN_LIMIT: usize = 1;

/// 2 ms at 1 Gbit/s: with more nothing gets faster.
const MAX_LIMIT: usize = 256 * 1024;

/// The bytes between the tunnel's user and the socket.
#[derive(Debug)]
pub(super) struct Backlog {
    socket: Socket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    waiting: usize,
    pace: Pace,
    is_closed: bool,
    sender: Option<Waker>,
}

impl Backlog {
    /// In front of this socket.
    pub(super) fn new(socket: Socket) -> Self {
        let pace = Pace::new(FIRST_LIMIT, MIN_LIMIT..=MAX_LIMIT, Instant::now());
        Self { socket, state: Mutex::new(State { waiting: 0, pace, is_closed: false, sender: None }) }
    }

    /// The bytes that may still come.
    pub(super) fn room(&self) -> usize {
        self.state().room()
    }

    /// Ready when there is room, or the backlog is closed. Only one task can wait.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_closed || state.room() > 0 {
            return Poll::Ready(());
        }
        state.sender = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Lets bytes in, whatever the room.
    pub(super) fn enter(self: &Arc<Self>, bytes: Bytes) -> Chunk {
        self.state().waiting += bytes.len();
        Chunk { bytes, backlog: Some(Arc::clone(self)) }
    }

    /// Nobody has to wait for room any more.
    pub(super) fn close(&self) {
        let mut state = self.state();
        state.is_closed = true;
        wake(state);
    }

    fn leave(&self, bytes: usize) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(bytes);
        state.pace.carry(bytes, Instant::now(), || self.socket.take_blocked());
        if state.waiting < state.pace.limit() {
            wake(state);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let sender = state.sender.take();
    drop(state);
    if let Some(sender) = sender {
        sender.wake();
    }
}

impl State {
    fn room(&mut self) -> usize {
        let room = self.pace.limit().saturating_sub(self.waiting);
        if room == 0 {
            self.pace.press();
        }
        room
    }
}

/// Bytes for h2 that tell the backlog when they leave.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Bytes,
    backlog: Option<Arc<Backlog>>,
}

impl Chunk {
    /// Bytes that no backlog counts.
    pub(super) fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, backlog: None }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        if let Some(backlog) = &self.backlog {
            backlog.leave(count);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(backlog) = &self.backlog
            && !self.bytes.is_empty()
        {
            backlog.leave(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_called_when_there_is_room_and_when_it_is_over() {
        let backlog = Arc::new(Backlog::new(Socket::default()));
        let mut chunk = backlog.enter(Bytes::from(vec![0; 20_000]));
        assert_eq!((backlog.room(), backlog.waiting()), (0, 20_000));
        let waiting = tokio::spawn({
            let backlog = Arc::clone(&backlog);
            poll_fn(move |cx| backlog.poll_room(cx))
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        chunk.advance(10_000);
        assert!(waiting.await.is_ok());
        assert_eq!(backlog.waiting(), 10_000);
        drop(chunk);
        assert_eq!(backlog.waiting(), 0);

        let _chunk = backlog.enter(Bytes::from(vec![0; 1_000_000]));
        backlog.close();
        poll_fn(|cx| backlog.poll_room(cx)).await;
    }

    proptest! {
        #[test]
        fn what_waits_is_what_has_not_left(sizes in proptest::collection::vec((1..5000usize, 0..6000usize), 1..20)) {
            let backlog = Arc::new(Backlog::new(Socket::default()));
            let mut kept = Vec::new();
            let mut expected = 0;
            for (size, taken) in sizes {
                let mut chunk = backlog.enter(vec![0; size].into());
                let taken = taken.min(size);
                chunk.advance(taken);
                expected += size - taken;
                kept.push(chunk);
            }
            prop_assert_eq!(backlog.waiting(), expected);
            drop(kept);
            prop_assert_eq!(backlog.waiting(), 0);
        }
    }
}
