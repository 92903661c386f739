//! What waits for the socket: counted to the byte, bounded by how long it waits.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, Bytes};
use tokio::{sync::Notify, time::Instant};

use super::{pace::Pace, transport::Socket};

/// Bytes that may wait before it is known what the path carries.
const FIRST_LIMIT: usize = 16 * 1024;

/// One packet, of whatever size.
const MIN_LIMIT: usize = 1;

/// 2 ms at 1 Gbit/s: with more nothing gets faster.
const MAX_LIMIT: usize = 256 * 1024;

/// The bytes between the tunnel's user and the socket.
#[derive(Debug)]
pub(super) struct Queue {
    socket: Socket,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    waiting: usize,
    pace: Pace,
    is_closed: bool,
}

impl Queue {
    /// In front of this socket.
    pub(super) fn new(socket: Socket) -> Self {
        let pace = Pace::new(FIRST_LIMIT, MIN_LIMIT..=MAX_LIMIT, Instant::now());
        let state = State { waiting: 0, pace, is_closed: false };
        Self { socket, state: Mutex::new(state), changed: Notify::new() }
    }

    /// The bytes that may still come. Whoever gets 0 is to wait for [`Queue::has_room`].
    pub(super) fn room(&self) -> usize {
        let mut state = self.state();
        let room = state.room();
        if room == 0 {
            state.pace.press();
        }
        room
    }

    /// The bytes that wait.
    pub(super) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// Waits until there is room, or the queue is closed. Cancel safe.
    pub(super) async fn has_room(&self) {
        loop {
            let changed = self.changed.notified();
            if self.room() > 0 || self.state().is_closed {
                return;
            }
            changed.await;
        }
    }

    /// Lets bytes in, whatever the room.
    pub(super) fn enter(self: &Arc<Self>, bytes: Bytes) -> Chunk {
        self.state().waiting += bytes.len();
        Chunk { bytes, queue: Some(Arc::clone(self)) }
    }

    /// Nobody has to wait for room any more.
    pub(super) fn close(&self) {
        self.state().is_closed = true;
        self.changed.notify_waiters();
    }

    fn leave(&self, bytes: usize) {
        let mut state = self.state();
        state.waiting = state.waiting.saturating_sub(bytes);
        state.pace.carry(bytes, Instant::now(), || self.socket.take_blocked());
        if state.room() > 0 {
            drop(state);
            self.changed.notify_waiters();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn room(&self) -> usize {
        self.pace.limit().saturating_sub(self.waiting)
    }
}

/// Bytes for h2 that tell the queue when they leave.
#[derive(Debug)]
pub(super) struct Chunk {
    bytes: Bytes,
    queue: Option<Arc<Queue>>,
}

impl Chunk {
    /// Bytes that no queue counts.
    pub(super) fn uncounted(bytes: Bytes) -> Self {
        Self { bytes, queue: None }
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
        if let Some(queue) = &self.queue {
            queue.leave(count);
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(queue) = &self.queue
            && !self.bytes.is_empty()
        {
            queue.leave(self.bytes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_called_when_there_is_room_and_when_it_is_over() {
        let queue = Arc::new(Queue::new(Socket::default()));
        let mut chunk = queue.enter(Bytes::from(vec![0; 20_000]));
        assert_eq!((queue.room(), queue.waiting()), (0, 20_000));
        let waiting = tokio::spawn({
            let queue = Arc::clone(&queue);
            async move { queue.has_room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        chunk.advance(10_000);
        assert!(waiting.await.is_ok());
        assert_eq!(queue.waiting(), 10_000);
        drop(chunk);
        assert_eq!(queue.waiting(), 0);

        let _chunk = queue.enter(Bytes::from(vec![0; 1_000_000]));
        queue.close();
        queue.has_room().await;
    }

    proptest! {
        #[test]
        fn what_waits_is_what_has_not_left(sizes in proptest::collection::vec((1..5000usize, 0..6000usize), 1..20)) {
            let queue = Arc::new(Queue::new(Socket::default()));
            let mut kept = Vec::new();
            let mut expected = 0;
            for (size, taken) in sizes {
                let mut chunk = queue.enter(vec![0; size].into());
                let taken = taken.min(size);
                chunk.advance(taken);
                expected += size - taken;
                kept.push(chunk);
            }
            prop_assert_eq!(queue.waiting(), expected);
            drop(kept);
            prop_assert_eq!(queue.waiting(), 0);
        }
    }
}
