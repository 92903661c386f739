//! The TCP connection under TLS.

use std::{
    future::Future,
    io::{self, IoSlice},
    ops::RangeInclusive,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{getsockopt, sockopt::GetStruct},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep},
};

use super::{
    flight::{Flight, Sample},
    pace::Pace,
};

/// A TCP connection for a tunnel: what is written is sent at once (TCP_NODELAY), and it takes bytes only while the kernel
/// has few to send (TCP_NOTSENT_LOWAT): what the path carries in about 3 ms, found by watching it, 1 to 64 KiB. What the
/// kernel holds waits where no queue management reaches it; with too little a fast path runs dry between two wake-ups. What it has sent
/// waits, too, in front of the slowest link: as long as the round trip shows a queue there, less is under way.
#[derive(Debug)]
pub struct ShortQueue {
    stream: TcpStream,
    pace: Pace,
    lowat: usize,
    flight: Flight,
    /// When to look again whether enough of what is under way has arrived.
    rest: Option<Pin<Box<Sleep>>>,
}

/// The option's first value and its bounds in bytes. The kernel has room from half of it on.
const FIRST_LOWAT: usize = 16 * 1024;
const LOWAT: RangeInclusive<usize> = 2 * 1024..=128 * 1024;

impl ShortQueue {
    /// Sets the connection's options.
    ///
    /// # Errors
    /// When the socket does not take one.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_notsent_lowat(FIRST_LOWAT as u32)?;
        let now = Instant::now();
        let pace = Pace::new(FIRST_LOWAT, LOWAT, now);
        Ok(Self { stream, pace, lowat: FIRST_LOWAT, flight: Flight::new(now), rest: None })
    }

    /// The connection, for its addresses and options.
    #[must_use]
    pub fn get_ref(&self) -> &TcpStream {
        &self.stream
    }

    /// The kernel minds TCP_NOTSENT_LOWAT when it is asked whether it has room. A write that it has not been asked about it
    /// appends to a segment that is not full, 64 KiB with offload.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flight(cx))?;
        loop {
            ready!(self.stream.poll_write_ready(cx))?;
            match self.stream.try_io(Interest::WRITABLE, || has_room(&self.stream)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.pace.press(),
                outcome => return Poll::Ready(outcome),
            }
        }
    }

    /// Ready when not too much is under way.
    fn poll_flight(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if let Some(rest) = &mut self.rest {
                ready!(rest.as_mut().poll(cx));
                self.rest = None;
            }
            let now = Instant::now();
            if !self.flight.is_due(now) {
                return Poll::Ready(Ok(()));
            }
            let Err(time) = self.flight.look(sample(&self.stream)?, now) else { return Poll::Ready(Ok(())) };
            self.pace.press();
            self.rest = Some(Box::pin(tokio::time::sleep(time)));
        }
    }

    fn note_written(&mut self, outcome: &io::Result<usize>) {
        let &Ok(bytes) = outcome else {
            return;
        };
        self.pace.carry(bytes, Instant::now(), || true);
        let limit = self.pace.limit();
        if limit > self.lowat * 2 || limit < self.lowat / 2 || (limit != self.lowat && limit == *LOWAT.start()) {
            self.lowat = limit;
            if let Err(error) = SockRef::from(&self.stream).set_tcp_notsent_lowat(limit as u32) {
                log::debug!("TCP_NOTSENT_LOWAT: {error}");
            }
        }
    }
}

fn sample(stream: &TcpStream) -> io::Result<Sample> {
    let info = getsockopt(stream, TcpInfo)?;
    let segment = info.tcpi_snd_mss as usize;
    Ok(Sample {
        round_trip: Duration::from_micros(info.tcpi_rtt.into()),
        under_way: info.tcpi_unacked as usize * segment + info.tcpi_notsent_bytes as usize,
        segment,
    })
}

#[derive(Debug, Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(TcpInfo, libc::IPPROTO_TCP, libc::TCP_INFO, libc::tcp_info, GetStruct<libc::tcp_info>);

fn has_room(stream: &TcpStream) -> io::Result<()> {
    let mut asked = [PollFd::new(stream.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut asked, PollTimeout::ZERO)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(()),
    }
}

impl AsyncRead for ShortQueue {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ShortQueue {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        self.note_written(&outcome);
        Poll::Ready(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx))?;
        let outcome = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, slices));
        self.note_written(&outcome);
        Poll::Ready(outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    async fn ends() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        let connecting = socket.connect(listener.local_addr().unwrap());
        let (near, far) = tokio::join!(connecting, listener.accept());
        (near.unwrap(), far.unwrap().0)
    }

    #[tokio::test]
    async fn the_socket_has_both_options() {
        let (near, _far) = ends().await;
        let stream = ShortQueue::new(near).unwrap();
        let socket = SockRef::from(stream.get_ref());
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), FIRST_LOWAT as u32);
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_stops_it_and_it_goes_on_when_the_peer_reads() {
        let (near, mut far) = ends().await;
        let mut stream = ShortQueue::new(near).unwrap();
        let mut taken = 0;
        while let Ok(written) = tokio::time::timeout(Duration::from_millis(200), stream.write(&[0; 1000])).await {
            taken += written.unwrap();
        }
        let unsent = unsent(stream.get_ref());
        assert!(unsent < FIRST_LOWAT / 2 + 1000, "{unsent} bytes");
        let reading = tokio::spawn(async move { far.read_exact(&mut vec![0; taken + 100_000]).await.map(drop) });
        let rest = tokio::time::timeout(Duration::from_secs(10), stream.write_all(&[0; 100_000])).await;
        rest.unwrap().unwrap();
        reading.await.unwrap().unwrap();
    }

    /// What `ss` calls notsent.
    fn unsent(stream: &TcpStream) -> usize {
        let local = stream.local_addr().unwrap().port();
        let output =
            std::process::Command::new("ss").args(["-tinH", "sport", "=", &format!(":{local}")]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let notsent = text.split("notsent:").nth(1).unwrap_or_else(|| panic!("no notsent in {text:?}"));
        notsent.split_whitespace().next().unwrap().parse().unwrap()
    }
}
