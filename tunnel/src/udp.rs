//! A UDP socket that sends and receives bursts: one system call for many datagrams of one size (GSO, GRO).

use std::{
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use bytes::BytesMut;
use quinn_proto::{EcnCodepoint, Transmit};
use quinn_udp::{BATCH_SIZE, RecvMeta, UdpSockRef, UdpSocketState};
use tokio::io::Interest;

/// Bytes that one receive buffer takes: what the kernel merges at most.
const BUFFER: usize = 64 * 1024;

/// Receive buffers for one system call. More would be memory for bursts that do not come.
const BUFFERS: usize = if BATCH_SIZE < 8 { BATCH_SIZE } else { 8 };

/// Bytes that datagrams are cut from before new memory is taken.
const POOL: usize = BUFFERS * BUFFER;

/// The largest payload in bytes of one send, before it is cut into datagrams (a UDP length of 65535 less its header and IP's).
const MAX_BURST: usize = 65_507;

/// A UDP socket for one task.
#[derive(Debug)]
pub struct UdpSocket {
    io: tokio::net::UdpSocket,
    state: UdpSocketState,
    buffers: [Box<[u8]>; BUFFERS],
    /// What datagrams are cut from.
    pool: BytesMut,
    local: SocketAddr,
}

/// A datagram that came.
#[derive(Debug)]
pub struct Received {
    /// From where.
    pub remote: SocketAddr,
    /// To which of the machine's addresses.
    pub local: Option<IpAddr>,
    /// The mark of its IP header (RFC 3168).
    pub ecn: Option<EcnCodepoint>,
    /// Its content.
    pub content: BytesMut,
}

impl UdpSocket {
    /// Takes a bound socket. To be called within a tokio runtime.
    ///
    /// # Errors
    /// The kernel's.
    pub fn new(socket: std::net::UdpSocket) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let local = socket.local_addr()?;
        let buffers = std::array::from_fn(|_| vec![0; BUFFER].into());
        Ok(Self { io: tokio::net::UdpSocket::from_std(socket)?, state, buffers, pool: BytesMut::new(), local })
    }

    /// Where it is bound.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether the kernel may cut datagrams into fragments, so that MTU discovery would find what is not there.
    #[must_use]
    pub fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }

    /// Datagrams of `size` bytes that one send takes.
    #[must_use]
    pub fn burst(&self, size: u16) -> usize {
        self.state.max_gso_segments().min(MAX_BURST / usize::from(size.max(1))).max(1)
    }

    /// Whether something may have come; the task is woken when it has.
    ///
    /// # Errors
    /// The kernel's.
    pub fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_recv_ready(context)
    }

    /// Whether a send may succeed; the task is woken when it may.
    ///
    /// # Errors
    /// The kernel's.
    pub fn poll_writable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io.poll_send_ready(context)
    }

    /// Takes what one system call brings; the number of datagrams, 0 when there are none. Their memory is used again when all of them
    /// are dropped.
    ///
    /// # Errors
    /// The kernel's; ICMP errors are none.
    pub fn try_recv(&mut self, mut each: impl FnMut(Received)) -> io::Result<usize> {
        let mut meta = [RecvMeta::default(); BUFFERS];
        let mut slices = self.buffers.each_mut().map(|buffer| io::IoSliceMut::new(buffer));
        let (io, state) = (&self.io, &self.state);
        let received = io.try_io(Interest::READABLE, || state.recv(UdpSockRef::from(io), &mut slices, &mut meta));
        let messages = match received {
            Ok(messages) => messages,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            // The answer to something sent before.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut count = 0;
        for (buffer, meta) in self.buffers.iter().zip(&meta).take(messages) {
            // Datagrams are decrypted in place, so each burst gets memory of its own, by one copy: the pool's, if it is free again.
            let burst = buffer.get(..meta.len).unwrap_or_default();
            self.pool.reserve(if burst.len() > self.pool.capacity() { POOL } else { 0 });
            self.pool.extend_from_slice(burst);
            let mut burst = self.pool.split();
            let ecn = meta.ecn.and_then(|ecn| EcnCodepoint::from_bits(ecn as u8));
            while !burst.is_empty() {
                let content = burst.split_to(meta.stride.clamp(1, burst.len()));
                each(Received { remote: meta.addr, local: meta.dst_ip, ecn, content });
                count += 1;
            }
        }
        Ok(count)
    }

    /// Sends what a session gave. What the network does not take is lost, as any datagram may be.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] only: nothing was sent, wait until it is [writable](Self::poll_writable).
    pub fn try_send(&self, transmit: &Transmit, content: &[u8]) -> io::Result<()> {
        let transmit = quinn_udp::Transmit {
            destination: transmit.destination,
            ecn: transmit.ecn.and_then(|ecn| quinn_udp::EcnCodepoint::from_bits(ecn as u8)),
            contents: content,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        };
        let (io, state) = (&self.io, &self.state);
        match io.try_io(Interest::WRITABLE, || state.try_send(UdpSockRef::from(io), &transmit)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            Err(error) => {
                log::debug!("not sent to {}: {error}", transmit.destination);
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
