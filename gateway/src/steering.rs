//! Which worker's socket a packet goes to: that of its connection, wherever the device has moved.
//!
//! All workers listen on the same port (SO_REUSEPORT). Left alone, the kernel would choose by the addresses of a packet, and a device
//! that comes from another address would reach a worker that does not know it. So every connection id that a worker gives away names
//! the worker in its first byte, and a filter of the kernel looks there. The first packet of a connection has an id that the client
//! made up: whichever worker it names is as good as any.

use std::io;
use std::num::NonZeroU16;
use std::os::fd::AsRawFd;
use std::time::Duration;

use m2m_tunnel::hub::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use rand::RngExt;

/// Tells the kernel how to choose among the sockets that are bound to this one's address, in the order in which they are bound. To be
/// called when it is the first one.
///
/// # Errors
/// The kernel's.
#[allow(unsafe_code, reason = "there is no safe interface to SO_ATTACH_REUSEPORT_CBPF")]
pub(crate) fn steer(socket: &impl AsRawFd, workers: NonZeroU16) -> io::Result<()> {
    let mut filter = filter(workers);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads a sock_fprog of the given size, and the filter behind it, and keeps neither pointer.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            std::ptr::from_ref(&program).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The endpoint of worker `number`: the ids that it gives away name it.
pub(crate) fn endpoint_config(number: u16, workers: NonZeroU16) -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.cid_generator(move || Box::new(SteeredIds { number, workers }));
    config
}

/// Connection ids of 8 bytes, the first of which, modulo the number of workers, is the worker's.
#[derive(Debug)]
struct SteeredIds {
    number: u16,
    workers: NonZeroU16,
}

const ID_LENGTH: usize = 8;

impl ConnectionIdGenerator for SteeredIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut rng = rand::rng();
        let mut bytes: [u8; ID_LENGTH] = rng.random();
        // As random as it can be and still name the worker.
        let rounds = (u16::from(u8::MAX) + 1 - self.number - 1) / self.workers + 1;
        bytes[0] = (rng.random_range(0..rounds) * self.workers.get() + self.number) as u8;
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_LENGTH
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The number of the socket, from the UDP payload: the first byte of the destination's connection id, modulo the number of workers.
/// It stands behind the first byte in a packet with a short header, and behind version and length in one with a long header (RFC 9000
/// sections 17.2 and 17.3).
fn filter(workers: NonZeroU16) -> [libc::sock_filter; 7] {
    const RETURN_A: u32 = 0x10;
    const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    [
        step(LOAD_BYTE, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 2, 0x80),
        step(LOAD_BYTE, 0, 0, 6),
        step(libc::BPF_JMP | libc::BPF_JA, 0, 0, 1),
        step(LOAD_BYTE, 0, 0, 1),
        step(libc::BPF_ALU | libc::BPF_MOD | libc::BPF_K, 0, 0, workers.get().into()),
        step(libc::BPF_RET | RETURN_A, 0, 0, 0),
    ]
}
