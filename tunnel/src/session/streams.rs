//! The streams of an HTTP/3 connection (RFC 9114 §6) over QUIC: control, QPACK, requests.

use std::collections::{HashMap, HashSet, VecDeque};

use bytes::{Bytes, BytesMut};
use quinn_proto::{Connection, Dir, ReadError, StreamEvent, StreamId, VarInt, WriteError};

use crate::{
    http3::{
        Code, ProtocolError, frame,
        settings::Settings,
        stream::{
            ControlEvent, ControlStream, QpackDecoderStream, RequestEvent, RequestStream, check_qpack_encoder, uni,
        },
    },
    qpack::{self, Field},
    varint,
};

/// What streams brought.
#[derive(Debug)]
pub(super) enum Happening {
    /// The peer's SETTINGS, once.
    Settings(Settings),
    /// GOAWAY with this id.
    GoAway(u64),
    /// A stream begins with these fields.
    Fields(StreamId, Vec<Field>),
    /// A piece of a stream's content.
    Content(StreamId, Bytes),
    /// A stream ended in order.
    Ended(StreamId),
    /// The peer gave a stream up.
    Reset(StreamId, Code),
    /// The peer has all that was written to a stream, its end included.
    Delivered(StreamId),
}

/// Bytes that wait for the peer's window: answers to many questions, and the peer takes none.
const MAX_WAITING: usize = 256 * 1024;

/// Streams that a peer may open while the connection lasts. A tunnel needs four: control, two for QPACK, the request. More are
/// refused one by one, but nobody has a reason to go on.
const MAX_STREAMS: u32 = 64;

/// The streams of one connection.
#[derive(Debug)]
pub(super) struct Streams {
    is_server: bool,
    settings: Settings,
    /// This side's control stream.
    control: Option<StreamId>,
    unidirectional: HashMap<StreamId, Unidirectional>,
    requests: HashMap<StreamId, RequestStream>,
    unsent: HashMap<StreamId, VecDeque<Bytes>>,
    /// Bytes in `unsent`.
    waiting: usize,
    /// Streams of the peer's until now.
    accepted: u32,
    /// Streams that end when what is unsent has been sent.
    ending: HashSet<StreamId>,
    /// One bit for each critical stream that the peer opened.
    opened: u8,
    knows_peer: bool,
    happenings: VecDeque<Happening>,
}

/// A stream of the peer's.
#[derive(Debug)]
enum Unidirectional {
    /// Its type is not whole yet.
    Untyped(BytesMut),
    Control(ControlStream),
    QpackEncoder,
    QpackDecoder(QpackDecoderStream),
}

impl Streams {
    pub(super) fn new(is_server: bool) -> Self {
        let settings = Settings {
            h3_datagram: true,
            enable_connect_protocol: is_server,
            max_field_section_size: Some(qpack::MAX_FIELD_SECTION_SIZE as u64),
        };
        Self {
            is_server,
            settings,
            control: None,
            unidirectional: HashMap::new(),
            requests: HashMap::new(),
            unsent: HashMap::new(),
            waiting: 0,
            accepted: 0,
            ending: HashSet::new(),
            opened: 0,
            knows_peer: false,
            happenings: VecDeque::new(),
        }
    }

    /// Opens this side's control stream as soon as the peer allows it.
    pub(super) fn open_control(&mut self, quic: &mut Connection) {
        if self.control.is_some() {
            return;
        }
        let Some(stream) = quic.streams().open(Dir::Uni) else { return };
        self.control = Some(stream);
        let mut out = Vec::new();
        varint::write(uni::CONTROL, &mut out);
        frame::write(frame::kind::SETTINGS, &self.settings.encode(), &mut out);
        self.send(quic, stream, out.into());
    }

    /// Opens a stream for a request; `None` while the peer allows none.
    pub(super) fn open_request(&mut self, quic: &mut Connection) -> Option<StreamId> {
        let stream = quic.streams().open(Dir::Bi)?;
        self.requests.insert(stream, RequestStream::new(!self.is_server));
        Some(stream)
    }

    /// Whether the peer's SETTINGS are there.
    pub(super) fn knows_peer(&self) -> bool {
        self.knows_peer
    }

    /// What came, in order.
    pub(super) fn next(&mut self) -> Option<Happening> {
        self.happenings.pop_front()
    }

    /// Takes an event of the connection.
    pub(super) fn handle(&mut self, quic: &mut Connection, event: StreamEvent) -> Result<(), ProtocolError> {
        match event {
            StreamEvent::Opened { dir: Dir::Uni } => {
                while let Some(stream) = quic.streams().accept(Dir::Uni) {
                    self.count_stream()?;
                    self.unidirectional.insert(stream, Unidirectional::Untyped(BytesMut::new()));
                    self.read(quic, stream)?;
                }
            }
            StreamEvent::Opened { dir: Dir::Bi } => {
                while let Some(stream) = quic.streams().accept(Dir::Bi) {
                    if !self.is_server {
                        return Err(ProtocolError::new(Code::STREAM_CREATION_ERROR, "request from a server"));
                    }
                    self.count_stream()?;
                    self.requests.insert(stream, RequestStream::new(!self.is_server));
                    self.read(quic, stream)?;
                }
            }
            StreamEvent::Readable { id } => self.read(quic, id)?,
            StreamEvent::Writable { id } => self.flush(quic, id),
            StreamEvent::Stopped { id, .. } if Some(id) == self.control => return Err(closed_critical()),
            StreamEvent::Stopped { id, error_code } => {
                self.forget_unsent(id);
                self.ending.remove(&id);
                self.happenings.push_back(Happening::Reset(id, Code(error_code.into_inner())));
            }
            StreamEvent::Finished { id } => self.happenings.push_back(Happening::Delivered(id)),
            StreamEvent::Available { .. } => {}
        }
        Ok(())
    }

    /// Sends a field section.
    pub(super) fn send_fields(&mut self, quic: &mut Connection, stream: StreamId, fields: &[Field]) {
        let mut out = Vec::new();
        frame::write(frame::kind::HEADERS, &qpack::encode(fields), &mut out);
        self.send(quic, stream, out.into());
    }

    /// Sends content.
    pub(super) fn send_content(&mut self, quic: &mut Connection, stream: StreamId, content: &[u8]) {
        let mut out = Vec::with_capacity(content.len() + 16);
        frame::write(frame::kind::DATA, content, &mut out);
        self.send(quic, stream, out.into());
    }

    /// Sends GOAWAY (RFC 9114 §5.2).
    pub(super) fn send_goaway(&mut self, quic: &mut Connection, id: u64) {
        let Some(control) = self.control else { return };
        let mut out = Vec::new();
        frame::write_header(frame::kind::GOAWAY, varint::size(id) as u64, &mut out);
        varint::write(id, &mut out);
        self.send(quic, control, out.into());
    }

    /// Ends what this side sends on a stream, after what is still to be sent.
    pub(super) fn finish(&mut self, quic: &mut Connection, stream: StreamId) {
        self.ending.insert(stream);
        self.flush(quic, stream);
    }

    /// Says that nothing more is read from a request's stream.
    pub(super) fn stop(&mut self, quic: &mut Connection, stream: StreamId, code: Code) {
        self.requests.remove(&stream);
        // It fails only when the stream is over already.
        let _ = quic.recv_stream(stream).stop(code_of(code));
    }

    /// Does not process a request (RFC 9114 §4.1.1).
    pub(super) fn reject(&mut self, quic: &mut Connection, stream: StreamId) {
        self.stop(quic, stream, Code::REQUEST_REJECTED);
        // It fails only when the stream is over already.
        let _ = quic.send_stream(stream).reset(code_of(Code::REQUEST_REJECTED));
    }

    /// What was asked for on this stream is a tunnel: only content follows.
    pub(super) fn expect_tunnel(&mut self, stream: StreamId) {
        if let Some(request) = self.requests.get_mut(&stream) {
            request.expect_tunnel();
        }
    }

    /// To be asked after sending.
    ///
    /// # Errors
    /// EXCESSIVE_LOAD when the peer asks on and takes no answers.
    pub(super) fn check_waiting(&self) -> Result<(), ProtocolError> {
        if self.waiting > MAX_WAITING {
            return Err(ProtocolError::new(Code::EXCESSIVE_LOAD, "answers are not taken"));
        }
        Ok(())
    }

    fn count_stream(&mut self) -> Result<(), ProtocolError> {
        self.accepted += 1;
        if self.accepted > MAX_STREAMS {
            return Err(ProtocolError::new(Code::EXCESSIVE_LOAD, "too many streams for one tunnel"));
        }
        Ok(())
    }

    /// Sends bytes as they are, when the peer's window has room for them.
    fn send(&mut self, quic: &mut Connection, stream: StreamId, bytes: Bytes) {
        if self.waiting > MAX_WAITING {
            return;
        }
        self.waiting += bytes.len();
        self.unsent.entry(stream).or_default().push_back(bytes);
        self.flush(quic, stream);
    }

    fn flush(&mut self, quic: &mut Connection, stream: StreamId) {
        let mut sender = quic.send_stream(stream);
        let unsent = self.unsent.entry(stream).or_default();
        while let Some(first) = unsent.front_mut() {
            match sender.write_chunks(std::slice::from_mut(first)) {
                Ok(written) => {
                    self.waiting -= written.bytes;
                    if first.is_empty() {
                        unsent.pop_front();
                    }
                }
                Err(WriteError::Blocked) => return,
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => break,
            }
        }
        self.forget_unsent(stream);
        if self.ending.remove(&stream) {
            // It fails only when the stream is over already.
            let _ = sender.finish();
        }
    }

    fn forget_unsent(&mut self, stream: StreamId) {
        let forgotten = self.unsent.remove(&stream).unwrap_or_default();
        self.waiting -= forgotten.iter().map(Bytes::len).sum::<usize>();
    }

    fn read(&mut self, quic: &mut Connection, stream: StreamId) -> Result<(), ProtocolError> {
        let (pieces, end) = read_all(quic, stream);
        match stream.dir() {
            Dir::Uni => self.read_unidirectional(quic, stream, &pieces, end),
            Dir::Bi => self.read_request(quic, stream, &pieces, end),
        }
    }

    fn read_request(
        &mut self,
        quic: &mut Connection,
        stream: StreamId,
        pieces: &[Bytes],
        end: End,
    ) -> Result<(), ProtocolError> {
        // One that was given up.
        let Some(request) = self.requests.get_mut(&stream) else { return Ok(()) };
        for piece in pieces {
            request.push(piece);
            while let Some(event) = request.next_event()? {
                match event {
                    RequestEvent::Headers(section) => {
                        let fields = qpack::decode(&section)?;
                        // What follows may be here already.
                        if !self.is_server {
                            match status_class(&fields) {
                                Some(b'1') => request.expect_headers(),
                                Some(b'2') => request.expect_tunnel(),
                                _ => {}
                            }
                        }
                        self.happenings.push_back(Happening::Fields(stream, fields));
                    }
                    RequestEvent::Data(content) => self.happenings.push_back(Happening::Content(stream, content)),
                    // Trailers mean nothing here.
                    RequestEvent::Trailers(_) => {}
                }
            }
        }
        match end {
            End::Open => return Ok(()),
            End::Finished => {
                request.finish()?;
                self.happenings.push_back(Happening::Ended(stream));
            }
            End::Reset(code) => {
                self.happenings.push_back(Happening::Reset(stream, code));
                // It fails only when the stream is over already.
                let _ = quic.send_stream(stream).reset(code_of(Code::REQUEST_CANCELLED));
            }
        }
        self.requests.remove(&stream);
        Ok(())
    }

    fn read_unidirectional(
        &mut self,
        quic: &mut Connection,
        stream: StreamId,
        pieces: &[Bytes],
        end: End,
    ) -> Result<(), ProtocolError> {
        for piece in pieces {
            self.take_unidirectional(quic, stream, piece)?;
        }
        if end == End::Open {
            return Ok(());
        }
        match self.unidirectional.remove(&stream) {
            Some(Unidirectional::Untyped(_)) | None => Ok(()),
            Some(_) => Err(closed_critical()),
        }
    }

    fn take_unidirectional(
        &mut self,
        quic: &mut Connection,
        stream: StreamId,
        piece: &[u8],
    ) -> Result<(), ProtocolError> {
        let Some(kind) = self.unidirectional.get_mut(&stream) else { return Ok(()) };
        match kind {
            Unidirectional::Untyped(input) => {
                input.extend_from_slice(piece);
                let Some((kind, size)) = varint::read(input) else { return Ok(()) };
                let rest = input.split_off(size);
                let typed = self.typed(kind)?;
                // Of a type that nobody knows (RFC 9114 §6.2.3): nothing is kept of it.
                let Some(typed) = typed else {
                    self.unidirectional.remove(&stream);
                    // It fails only when the stream is over already.
                    let _ = quic.recv_stream(stream).stop(code_of(Code::STREAM_CREATION_ERROR));
                    return Ok(());
                };
                self.unidirectional.insert(stream, typed);
                self.take_unidirectional(quic, stream, &rest)
            }
            Unidirectional::Control(control) => {
                control.push(piece);
                while let Some(event) = control.next_event()? {
                    self.knows_peer = true;
                    self.happenings.push_back(match event {
                        ControlEvent::Settings(settings) => Happening::Settings(settings),
                        ControlEvent::GoAway(id) => Happening::GoAway(id),
                    });
                }
                Ok(())
            }
            Unidirectional::QpackEncoder => check_qpack_encoder(piece),
            Unidirectional::QpackDecoder(decoder) => decoder.push(piece),
        }
    }

    /// What a stream of this type is; `None` for a type that nobody knows.
    fn typed(&mut self, kind: u64) -> Result<Option<Unidirectional>, ProtocolError> {
        let typed = match kind {
            uni::CONTROL => Unidirectional::Control(ControlStream::new(!self.is_server)),
            uni::QPACK_ENCODER => Unidirectional::QpackEncoder,
            uni::QPACK_DECODER => Unidirectional::QpackDecoder(QpackDecoderStream::default()),
            uni::PUSH if !self.is_server => {
                return Err(ProtocolError::new(Code::ID_ERROR, "push was never allowed"));
            }
            uni::PUSH => return Err(ProtocolError::new(Code::STREAM_CREATION_ERROR, "push stream from a client")),
            _ => return Ok(None),
        };
        let bit = 1 << kind;
        if self.opened & bit != 0 {
            let reason = format!("second stream of type {kind:#x}");
            return Err(ProtocolError::new(Code::STREAM_CREATION_ERROR, reason));
        }
        self.opened |= bit;
        Ok(Some(typed))
    }
}

/// The first digit of an answer's status.
fn status_class(fields: &[Field]) -> Option<u8> {
    fields.iter().find(|field| field.name == b":status")?.value.first().copied()
}

/// How far a stream has been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    Finished,
    Reset(Code),
}

/// Bytes that are taken off a stream at once.
const MAX_CHUNK: usize = 16 * 1024;

fn read_all(quic: &mut Connection, stream: StreamId) -> (Vec<Bytes>, End) {
    let mut pieces = Vec::new();
    let mut receiver = quic.recv_stream(stream);
    // One that was stopped, or read to its end before.
    let Ok(mut chunks) = receiver.read(true) else { return (pieces, End::Open) };
    let end = loop {
        match chunks.next(MAX_CHUNK) {
            Ok(Some(chunk)) => pieces.push(chunk.bytes),
            Ok(None) => break End::Finished,
            Err(ReadError::Blocked) => break End::Open,
            Err(ReadError::Reset(code)) => break End::Reset(Code(code.into_inner())),
        }
    };
    // Whether a window update has to be sent is seen when the connection is asked for packets.
    let _ = chunks.finalize();
    (pieces, end)
}

/// A code as QUIC wants it.
pub(super) fn code_of(code: Code) -> VarInt {
    VarInt::from_u64(code.0).unwrap_or(VarInt::MAX)
}

fn closed_critical() -> ProtocolError {
    ProtocolError::new(Code::CLOSED_CRITICAL_STREAM, "a stream that must stay was closed")
}
