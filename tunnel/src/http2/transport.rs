//! The stream under the connection: keeps TLS from hoarding, and remembers why it failed.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::session::{CloseReason, printable};

/// A stream that takes new bytes only when all former ones are with the kernel. TLS would go on taking and keep up to
/// 64 KiB of its own in front of a socket that is full.
///
/// When writing fails it takes bytes to no avail until all that the peer had sent is read: an alert or a code that came
/// before the connection broke explains more than the broken pipe.
#[derive(Debug)]
pub(super) struct Transport<T> {
    inner: T,
    is_flushed: bool,
    failed_write: Option<io::Error>,
    socket: Socket,
}

/// What the stream has shown of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Socket(Arc<Shown>);

#[derive(Debug, Default)]
struct Shown {
    /// Why it failed, once it did: h2 keeps the words of an error only.
    fault: OnceLock<CloseReason>,
    was_blocked: AtomicBool,
}

impl Socket {
    pub(super) fn fault(&self) -> Option<CloseReason> {
        self.0.fault.get().cloned()
    }

    /// Whether it could not take bytes for a while, since this was asked the last time.
    pub(super) fn take_blocked(&self) -> bool {
        self.0.was_blocked.swap(false, Ordering::Relaxed)
    }

    fn note(&self, error: &io::Error) {
        self.0.fault.get_or_init(|| reason(error));
    }

    fn watch<V>(&self, outcome: Poll<V>) -> Poll<V> {
        if outcome.is_pending() {
            self.0.was_blocked.store(true, Ordering::Relaxed);
        }
        outcome
    }
}

fn reason(error: &io::Error) -> CloseReason {
    if error.kind() == io::ErrorKind::TimedOut {
        return CloseReason::TimedOut;
    }
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        Some(rustls::Error::AlertReceived(alert)) => {
            CloseReason::TlsAlert { alert: u8::from(*alert), text: printable(format!("{alert:?}").as_bytes()) }
        }
        _ => CloseReason::Transport(error.to_string()),
    }
}

impl<T> Transport<T> {
    pub(super) fn new(inner: T) -> (Self, Socket) {
        let socket = Socket::default();
        (Self { inner, is_flushed: true, failed_write: None, socket: socket.clone() }, socket)
    }
}

impl<T: AsyncWrite + Unpin> Transport<T> {
    /// Writes `size` bytes with `write`, the former ones being gone.
    fn poll_after_former(
        &mut self,
        cx: &mut Context<'_>,
        size: usize,
        write: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if !self.is_flushed {
            ready!(Pin::new(&mut *self).poll_flush(cx))?;
        }
        if self.failed_write.is_some() {
            return Poll::Ready(Ok(size));
        }
        match ready!(self.socket.watch(write(Pin::new(&mut self.inner), cx))) {
            Ok(written) => {
                self.is_flushed = false;
                Poll::Ready(Ok(written))
            }
            Err(error) => {
                self.note_failed_write(error, cx);
                Poll::Ready(Ok(size))
            }
        }
    }

    fn note_failed_write(&mut self, error: io::Error, cx: &mut Context<'_>) {
        self.failed_write = Some(error);
        self.is_flushed = true;
        // So that it is read until there is nothing more
        cx.waker().wake_by_ref();
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Transport<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = match (Pin::new(&mut self.inner).poll_read(cx, buffer), &self.failed_write) {
            (Poll::Ready(Ok(())), Some(error)) if buffer.filled().len() == before => {
                self.socket.note(error);
                Ok(())
            }
            (Poll::Pending, Some(error)) => {
                self.socket.note(error);
                Err(error.kind().into())
            }
            (outcome, _) => ready!(outcome),
        };
        Poll::Ready(outcome.inspect_err(|error| self.socket.note(error)))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Transport<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_after_former(cx, bytes.len(), |inner, cx| inner.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let size = slices.iter().map(|slice| slice.len()).sum();
        self.poll_after_former(cx, size, |inner, cx| inner.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed_write.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        match ready!(self.socket.watch(flushed)) {
            Ok(()) => self.is_flushed = true,
            Err(error) => self.note_failed_write(error, cx),
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.failed_write.is_some() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use rustls::AlertDescription;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

    use super::*;

    #[test]
    fn an_alert_keeps_its_number() {
        let alert = rustls::Error::AlertReceived(AlertDescription::CertificateRevoked);
        let error = io::Error::new(io::ErrorKind::InvalidData, alert);
        assert_eq!(reason(&error), CloseReason::TlsAlert { alert: 44, text: "CertificateRevoked".into() });
        assert_eq!(reason(&io::ErrorKind::TimedOut.into()), CloseReason::TimedOut);
        assert!(matches!(reason(&io::ErrorKind::ConnectionReset.into()), CloseReason::Transport(_)));
    }

    #[tokio::test]
    async fn a_layer_below_hoards_one_write_at_most() {
        let (near, _far) = tokio::io::duplex(100);
        // A layer that takes 100,000 bytes whether or not they get on
        let (mut transport, _) = Transport::new(BufWriter::with_capacity(100_000, near));
        let mut taken = 0;
        let write = async {
            loop {
                taken += transport.write(&[0; 1000]).await.unwrap();
            }
        };
        let gone = tokio::time::timeout(std::time::Duration::from_millis(50), write).await;
        assert!(gone.is_err());
        assert_eq!(taken, 1000);
    }

    #[tokio::test]
    async fn what_the_peer_said_last_is_read_although_writing_fails() {
        for size in [1, 4000] {
            let (near, mut far) = tokio::io::duplex(10_000);
            let (mut transport, socket) = Transport::new(near);
            far.write_all(&vec![7; size]).await.unwrap();
            drop(far);
            assert_eq!(transport.write(&[0; 100]).await.unwrap(), 100);
            assert_eq!(socket.fault(), None);
            let mut said = Vec::new();
            transport.read_to_end(&mut said).await.unwrap();
            assert_eq!(said.len(), size);
            assert!(matches!(socket.fault(), Some(CloseReason::Transport(_))));
        }
    }

    #[tokio::test]
    async fn a_failed_write_ends_a_silent_stream() {
        /// Cannot be written to, and says nothing.
        struct Deaf;
        impl AsyncRead for Deaf {
            fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
                Poll::Pending
            }
        }
        impl AsyncWrite for Deaf {
            fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
            fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
                Poll::Ready(Ok(()))
            }
        }
        let (mut transport, socket) = Transport::new(Deaf);
        transport.write_all(&[0; 100]).await.unwrap();
        let error = transport.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(socket.fault(), Some(CloseReason::TimedOut));
    }
}
