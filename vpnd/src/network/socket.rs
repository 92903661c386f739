//! Sockets whose packets carry the mark, so that they take the machine's own routes and pass the firewall.
//!
//! Setting the mark needs CAP_NET_ADMIN. Without the mark a packet would run into the tunnel that it is to carry, so there is no
//! falling back to an unmarked socket.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use nix::sys::socket::sockopt::{RcvBufForce, SndBufForce};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use super::mark::MARK;

/// Bytes that may wait in the socket of a tunnel for the daemon: some ten milliseconds at a gigabit per second.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Bytes that may wait in the socket of a tunnel for the link. Small, because what waits here is late already.
const SEND_BUFFER: usize = 1 << 20;

/// Connects to `remote` with `TCP_NODELAY` set, over the network interface `uplink` if one is given.
///
/// # Errors
/// Whatever the kernel says; `PermissionDenied` without CAP_NET_ADMIN.
pub async fn tcp(remote: SocketAddr, uplink: Option<&str>) -> io::Result<TcpStream> {
    let socket = marked(Domain::for_address(remote), Type::STREAM, Protocol::TCP)?;
    if let Some(uplink) = uplink {
        socket.bind_device(Some(uplink.as_bytes()))?;
    }
    let stream = TcpSocket::from_std_stream(socket.into()).connect(remote).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A UDP socket bound to `local`, in non-blocking mode.
///
/// # Errors
/// Whatever the kernel says; `PermissionDenied` without CAP_NET_ADMIN.
pub fn udp(local: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = marked(Domain::for_address(local), Type::DGRAM, Protocol::UDP)?;
    socket.bind(&SockAddr::from(local))?;
    Ok(socket.into())
}

/// A UDP socket for QUIC, bound to any address and port and, if one is given, to a network interface, with buffers for a fast tunnel. It reaches IPv6 and IPv4; where the machine
/// has no IPv6 at all, IPv4 only.
///
/// # Errors
/// Whatever the kernel says; `PermissionDenied` without CAP_NET_ADMIN.
pub fn quic(uplink: Option<&str>) -> io::Result<std::net::UdpSocket> {
    let socket = match dual_stack() {
        // No IPv6 in the kernel, or switched off for every interface.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) => {
            let socket = marked(Domain::IPV4, Type::DGRAM, Protocol::UDP)?;
            socket.bind(&SockAddr::from(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))))?;
            socket
        }
        other => other?,
    };
    if let Some(uplink) = uplink {
        socket.bind_device(Some(uplink.as_bytes()))?;
    }
    nix::sys::socket::setsockopt(&socket.as_fd(), RcvBufForce, &RECEIVE_BUFFER)?;
    nix::sys::socket::setsockopt(&socket.as_fd(), SndBufForce, &SEND_BUFFER)?;
    Ok(socket.into())
}

fn dual_stack() -> io::Result<Socket> {
    let socket = marked(Domain::IPV6, Type::DGRAM, Protocol::UDP)?;
    socket.set_only_v6(false)?;
    socket.bind(&SockAddr::from(SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))))?;
    Ok(socket)
}

fn marked(domain: Domain, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
    socket.set_mark(MARK).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            io::ErrorKind::PermissionDenied,
            "not allowed to mark packets; run the program with CAP_NET_ADMIN (AmbientCapabilities= in its unit)",
        ),
        _ => error,
    })?;
    Ok(socket)
}
