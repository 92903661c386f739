//! A peer that the test plays by hand, for what no session does.

use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};

use bytes::Bytes;
use m2m_tunnel::{
    http3::{Code, frame, settings::Settings, stream::uni},
    qpack::{self, Field},
    session::{CloseReason, Event, Session},
    varint,
};
use quinn_proto::{
    Connection, ConnectionEvent, Dir, EndpointEvent, ReadError, StreamEvent, StreamId, Transmit, VarInt,
};

/// What an end of the connection is.
pub(crate) enum Peer {
    Session(Box<Session>),
    Played(Box<Played>),
}

impl Peer {
    pub(crate) fn is_connected(&self) -> bool {
        match self {
            Self::Session(_) => true,
            Self::Played(played) => played.is_connected,
        }
    }

    pub(crate) fn handle_event(&mut self, event: ConnectionEvent) {
        match self {
            Self::Session(session) => session.handle_event(event),
            Self::Played(played) => played.quic.handle_event(event),
        }
    }

    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        match self {
            Self::Session(session) if session.is_drained() => None,
            Self::Session(session) => session.poll_timeout(),
            Self::Played(played) if played.quic.is_drained() => None,
            Self::Played(played) => played.quic.poll_timeout(),
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_some_and(|due| due <= now) {
            match self {
                Self::Session(session) => session.handle_timeout(now),
                Self::Played(played) => played.quic.handle_timeout(now),
            }
        }
        if let Self::Session(session) = self {
            session.settle(now);
        }
    }

    pub(crate) fn settle(&mut self, now: Instant, accepts: bool, events: &mut Vec<Event>) {
        match self {
            Self::Session(session) => {
                session.settle(now);
                while let Some(event) = session.poll_event() {
                    if accepts && matches!(event, Event::Requested(..)) {
                        session.accept();
                    }
                    events.push(event);
                }
            }
            Self::Played(played) => played.settle(),
        }
    }

    pub(crate) fn poll_endpoint_event(&mut self) -> Option<EndpointEvent> {
        match self {
            Self::Session(session) => session.poll_endpoint_event(),
            Self::Played(played) => played.quic.poll_endpoint_events(),
        }
    }

    pub(crate) fn poll_transmit(&mut self, now: Instant, max: usize, buffer: &mut Vec<u8>) -> Option<Transmit> {
        match self {
            Self::Session(session) => session.poll_transmit(now, max, buffer),
            Self::Played(played) => played.quic.poll_transmit(now, max, buffer),
        }
    }
}

/// A bare connection, and what it saw.
pub(crate) struct Played {
    pub(crate) quic: Connection,
    is_connected: bool,
    /// Why the connection is gone.
    ended: Option<CloseReason>,
    /// Streams that the peer opened for requests.
    pub(crate) requests: Vec<StreamId>,
    contents: HashMap<StreamId, Vec<u8>>,
    finished: HashSet<StreamId>,
    resets: HashMap<StreamId, Code>,
    stops: HashMap<StreamId, Code>,
}

impl Played {
    pub(crate) fn new(quic: Connection) -> Self {
        Self {
            quic,
            is_connected: false,
            ended: None,
            requests: Vec::new(),
            contents: HashMap::new(),
            finished: HashSet::new(),
            resets: HashMap::new(),
            stops: HashMap::new(),
        }
    }

    /// Opens a stream of this type.
    pub(crate) fn open_uni(&mut self, kind: u64, bytes: &[u8]) -> StreamId {
        let stream = self.quic.streams().open(Dir::Uni).expect("room for a stream");
        let mut out = Vec::new();
        varint::write(kind, &mut out);
        out.extend_from_slice(bytes);
        self.write(stream, &out);
        stream
    }

    /// Opens a control stream as a good peer does.
    pub(crate) fn open_control(&mut self, settings: &Settings) -> StreamId {
        let mut out = Vec::new();
        frame::write(frame::kind::SETTINGS, &settings.encode(), &mut out);
        self.open_uni(uni::CONTROL, &out)
    }

    pub(crate) fn open_request(&mut self, bytes: &[u8]) -> StreamId {
        let stream = self.quic.streams().open(Dir::Bi).expect("room for a request");
        self.write(stream, bytes);
        stream
    }

    pub(crate) fn write(&mut self, stream: StreamId, bytes: &[u8]) {
        let written = self.quic.send_stream(stream).write(bytes).unwrap();
        assert_eq!(written, bytes.len(), "all at once");
    }

    pub(crate) fn finish(&mut self, stream: StreamId) {
        self.quic.send_stream(stream).finish().unwrap();
    }

    pub(crate) fn reset(&mut self, stream: StreamId, code: Code) {
        self.quic.send_stream(stream).reset(VarInt::from_u64(code.0).unwrap()).unwrap();
    }

    pub(crate) fn send_datagram(&mut self, content: &[u8]) {
        self.quic.datagrams().send(Bytes::copy_from_slice(content), false).unwrap();
    }

    /// What came on a stream so far.
    pub(crate) fn content(&self, stream: StreamId) -> &[u8] {
        self.contents.get(&stream).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether the peer ended a stream in order.
    pub(crate) fn is_finished(&self, stream: StreamId) -> bool {
        self.finished.contains(&stream)
    }

    /// The code with which the peer gave a stream up.
    pub(crate) fn reset_code(&self, stream: StreamId) -> Option<Code> {
        self.resets.get(&stream).copied()
    }

    /// The code with which the peer said that it reads no more of a stream.
    pub(crate) fn stop_code(&self, stream: StreamId) -> Option<Code> {
        self.stops.get(&stream).copied()
    }

    /// The code with which the peer closed the connection.
    pub(crate) fn told(&self) -> Option<Code> {
        match &self.ended {
            None => None,
            Some(CloseReason::Peer { code, .. }) => Some(*code),
            Some(other) => panic!("not closed by the peer: {other}"),
        }
    }

    fn settle(&mut self) {
        while let Some(event) = self.quic.poll() {
            match event {
                quinn_proto::Event::Connected => self.is_connected = true,
                quinn_proto::Event::ConnectionLost { reason } => self.ended = Some(reason.into()),
                quinn_proto::Event::Stream(StreamEvent::Opened { dir }) => {
                    while let Some(stream) = self.quic.streams().accept(dir) {
                        if dir == Dir::Bi {
                            self.requests.push(stream);
                        }
                        self.read(stream);
                    }
                }
                quinn_proto::Event::Stream(StreamEvent::Readable { id }) => self.read(id),
                quinn_proto::Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    self.stops.insert(id, Code(error_code.into_inner()));
                }
                _ => {}
            }
        }
    }

    fn read(&mut self, stream: StreamId) {
        let mut receiver = self.quic.recv_stream(stream);
        let Ok(mut chunks) = receiver.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => self.contents.entry(stream).or_default().extend_from_slice(&chunk.bytes),
                Ok(None) => {
                    self.finished.insert(stream);
                    break;
                }
                Err(ReadError::Blocked) => break,
                Err(ReadError::Reset(code)) => {
                    self.resets.insert(stream, Code(code.into_inner()));
                    break;
                }
            }
        }
        let _ = chunks.finalize();
    }
}

/// A HEADERS frame.
pub(crate) fn headers(fields: &[Field]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(frame::kind::HEADERS, &qpack::encode(fields), &mut bytes);
    bytes
}

/// What a good peer says of itself.
pub(crate) fn settings(of_server: bool) -> Settings {
    Settings { enable_connect_protocol: of_server, h3_datagram: true, max_field_section_size: None }
}
