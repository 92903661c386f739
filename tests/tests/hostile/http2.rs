//! A client of the gateway over TCP that writes frames of HTTP/2 by hand (RFC 9113).

use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use m2m_lab::Node;
use m2m_tunnel::{http2, request};
use rustls::{ClientConnection, StreamOwned};
use socket2::{Domain, Socket, Type};

use crate::peer::{AUTHORITY, Credentials, GATEWAY};

const LIMIT: Duration = Duration::from_secs(10);

/// Frame types (RFC 9113 section 6).
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Flags of HEADERS.
pub(crate) const END_STREAM: u8 = 1;
/// Flags of HEADERS and CONTINUATION.
pub(crate) const END_HEADERS: u8 = 4;
/// The error code of who gave up reading fields: what follows them cannot be read either (RFC 9113 section 4.3).
pub(crate) const COMPRESSION_ERROR: u32 = 9;
/// The error code of somebody who is too busy (RFC 9113 section 7).
pub(crate) const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A connection on which HTTP/2 has begun.
pub(crate) struct Http2(Tls);

/// TLS that is finished.
pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

/// What the gateway said last.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// GOAWAY with this error code.
    GoAway(u32),
    /// RST_STREAM with this error code.
    Reset(u32),
    /// The connection is gone, without a word.
    Closed,
}

/// A TCP connection to the gateway from the address `local` of `node`.
pub(crate) fn tcp(node: &Node, local: Ipv4Addr) -> io::Result<TcpStream> {
    node.within(|| tcp_here(local)).unwrap()
}

/// As [`tcp`], from the namespace of this thread.
pub(crate) fn tcp_here(local: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((local, 0)).into())?;
    socket.connect_timeout(&GATEWAY.into(), LIMIT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// TLS on a fresh TCP connection, finished on both sides as far as the client can see.
pub(crate) fn tls(mut stream: TcpStream, credentials: &Credentials) -> io::Result<Tls> {
    let name = AUTHORITY.try_into().unwrap();
    let mut tls = ClientConnection::new(Arc::new(credentials.tls(http2::ALPN)), name).unwrap();
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(StreamOwned::new(tls, stream))
}

impl Http2 {
    /// Connects and begins in order.
    pub(crate) fn connect(node: &Node, local: Ipv4Addr, credentials: &Credentials) -> io::Result<Self> {
        let mut this = Self(tls(tcp(node, local)?, credentials)?);
        this.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")?;
        this.send(kind::SETTINGS, 0, 0, &[])?;
        Ok(this)
    }

    /// Asks for a tunnel on stream 1, without waiting for the answer.
    pub(crate) fn ask(&mut self) -> io::Result<()> {
        let request = request::unlimited(AUTHORITY).to_fields();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let section: Vec<u8> = request.iter().flat_map(|one| field(&text(&one.name), &text(&one.value))).collect();
        self.send(kind::HEADERS, END_HEADERS, 1, &section)
    }

    /// Sends a frame.
    pub(crate) fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        self.0.write_all(&frame)
    }

    /// The next frame's type and content.
    pub(crate) fn receive(&mut self) -> io::Result<(u8, Vec<u8>)> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.read(&mut payload)?;
        Ok((head[3], payload))
    }

    /// Reads even where nothing can be written any more: the gateway's last words are there still.
    fn read(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        let Self(StreamOwned { conn, sock }) = self;
        while !buffer.is_empty() {
            match conn.reader().read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => buffer = &mut buffer[length..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if conn.read_tls(sock)? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                    conn.process_new_packets().map_err(io::Error::other)?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads until the gateway closes the connection.
    pub(crate) fn closed(&mut self) -> Told {
        loop {
            match self.told() {
                Told::Reset(_) => {}
                told => return told,
            }
        }
    }

    /// Reads until the gateway refuses something.
    pub(crate) fn told(&mut self) -> Told {
        let code = |payload: &[u8]| u32::from_be_bytes(payload[payload.len() - 4..].try_into().unwrap());
        loop {
            match self.receive() {
                Ok((kind::GOAWAY, payload)) => return Told::GoAway(code(&payload[..8])),
                Ok((kind::RST_STREAM, payload)) => return Told::Reset(code(&payload)),
                Ok(_) => {}
                Err(error) => {
                    let is_late = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
                    assert!(!is_late, "the gateway says nothing");
                    return Told::Closed;
                }
            }
        }
    }
}

/// A header field, literal and not indexed (RFC 7541 section 6.2.2); at most 126 bytes of each.
pub(crate) fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0];
    for text in [name, value] {
        bytes.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text"));
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes
}

/// The fields of a request that is none for a tunnel.
pub(crate) fn plain_request() -> Vec<u8> {
    [(":method", "GET"), (":scheme", "https"), (":authority", AUTHORITY), (":path", "/")]
        .iter()
        .flat_map(|(name, value)| field(name, value))
        .collect()
}
