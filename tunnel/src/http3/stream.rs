//! What may come on which stream, in which order (RFC 9114 §6, RFC 9204 §4.2).

use bytes::Bytes;

use super::{
    Code, ProtocolError,
    frame::{Frame, FrameReader, kind},
    settings::Settings,
};
use crate::varint;

/// Types of unidirectional streams.
pub mod uni {
    /// Frames about the connection.
    pub const CONTROL: u64 = 0x00;
    /// Server push.
    pub const PUSH: u64 = 0x01;
    /// Instructions for the dynamic table.
    pub const QPACK_ENCODER: u64 = 0x02;
    /// What the decoder did.
    pub const QPACK_DECODER: u64 = 0x03;
}

/// What the peer says on its control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlEvent {
    /// Comes first, once.
    Settings(Settings),
    /// The peer is about to leave; with a stream id from a server, a push id from a client.
    GoAway(u64),
}

/// The peer's control stream (RFC 9114 §6.2.1), after its type.
#[derive(Debug)]
pub struct ControlStream {
    frames: FrameReader,
    from_server: bool,
    settings_seen: bool,
    last_goaway: u64,
    max_push: u64,
}

impl ControlStream {
    /// `from_server` says who the peer is.
    #[must_use]
    pub fn new(from_server: bool) -> Self {
        Self { frames: FrameReader::default(), from_server, settings_seen: false, last_goaway: u64::MAX, max_push: 0 }
    }

    /// Adds what the stream brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// The next event; `None` when more input is needed.
    ///
    /// # Errors
    /// A connection error with the code that RFC 9114 names.
    pub fn next_event(&mut self) -> Result<Option<ControlEvent>, ProtocolError> {
        while let Some(frame) = self.frames.next_frame()? {
            let Frame::Whole { kind, payload } = frame else {
                return Err(self.unexpected(kind::DATA));
            };
            if !self.settings_seen && kind != kind::SETTINGS {
                return Err(self.unexpected(kind));
            }
            match kind {
                kind::SETTINGS if !self.settings_seen => {
                    self.settings_seen = true;
                    return Settings::decode(&payload).map(|settings| Some(ControlEvent::Settings(settings)));
                }
                kind::GOAWAY => return self.goaway(&payload).map(Some),
                kind::MAX_PUSH_ID if !self.from_server => self.max_push_id(&payload)?,
                kind::CANCEL_PUSH => {
                    single(&payload)?;
                    return Err(ProtocolError::new(Code::ID_ERROR, "CANCEL_PUSH without a push"));
                }
                _ => return Err(self.unexpected(kind)),
            }
        }
        Ok(None)
    }

    fn goaway(&mut self, payload: &[u8]) -> Result<ControlEvent, ProtocolError> {
        let id = single(payload)?;
        if self.from_server && !id.is_multiple_of(4) {
            return Err(ProtocolError::new(Code::ID_ERROR, "GOAWAY names no request stream"));
        }
        if id > self.last_goaway {
            return Err(ProtocolError::new(Code::ID_ERROR, "GOAWAY with a larger id than before"));
        }
        self.last_goaway = id;
        Ok(ControlEvent::GoAway(id))
    }

    /// Nothing is ever pushed here, so the only thing left to do is to check.
    fn max_push_id(&mut self, payload: &[u8]) -> Result<(), ProtocolError> {
        let id = single(payload)?;
        if id < self.max_push {
            return Err(ProtocolError::new(Code::ID_ERROR, "MAX_PUSH_ID with a smaller id than before"));
        }
        self.max_push = id;
        Ok(())
    }

    fn unexpected(&self, kind: u64) -> ProtocolError {
        if self.settings_seen {
            let reason = format!("frame of type {kind:#x} on the control stream");
            return ProtocolError::new(Code::FRAME_UNEXPECTED, reason);
        }
        ProtocolError::new(Code::MISSING_SETTINGS, "the control stream does not begin with SETTINGS")
    }
}

/// The only integer in a payload.
fn single(mut payload: &[u8]) -> Result<u64, ProtocolError> {
    varint::take(&mut payload)
        .filter(|_| payload.is_empty())
        .ok_or_else(|| ProtocolError::new(Code::FRAME_ERROR, "frame is not one integer"))
}

/// What the peer says on a request stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestEvent {
    /// An encoded field section: the request, or an answer (interim ones included).
    Headers(Bytes),
    /// A piece of the content, never empty.
    Data(Bytes),
    /// The trailers, encoded. Nothing follows.
    Trailers(Bytes),
}

/// One direction of a request stream (RFC 9114 §4.1).
#[derive(Debug, Default)]
pub struct RequestStream {
    frames: FrameReader,
    from_server: bool,
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Headers,
    Content,
    Tunnel,
    Done,
}

impl RequestStream {
    /// `from_server` says who the peer is; by default a client.
    #[must_use]
    pub fn new(from_server: bool) -> Self {
        Self { from_server, ..Self::default() }
    }

    /// Adds what the stream brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// To be called when the last [`RequestEvent::Headers`] was an interim answer: more of them follow.
    pub fn expect_headers(&mut self) {
        self.phase = Phase::Headers;
    }

    /// To be called when the last [`RequestEvent::Headers`] began a tunnel: only DATA follows (RFC 9114 §4.4).
    pub fn expect_tunnel(&mut self) {
        self.phase = Phase::Tunnel;
    }

    /// The next event; `None` when more input is needed.
    ///
    /// # Errors
    /// A connection error: FRAME_UNEXPECTED when the order is wrong, ID_ERROR for a push that was not allowed, or the
    /// frame's own error.
    pub fn next_event(&mut self) -> Result<Option<RequestEvent>, ProtocolError> {
        let Some(frame) = self.frames.next_frame()? else {
            return Ok(None);
        };
        match (self.phase, frame) {
            (Phase::Headers, Frame::Whole { kind: kind::HEADERS, payload }) => {
                self.phase = Phase::Content;
                Ok(Some(RequestEvent::Headers(payload)))
            }
            (Phase::Content | Phase::Tunnel, Frame::Data(piece)) => Ok(Some(RequestEvent::Data(piece))),
            (Phase::Content, Frame::Whole { kind: kind::HEADERS, payload }) => {
                self.phase = Phase::Done;
                Ok(Some(RequestEvent::Trailers(payload)))
            }
            // RFC 9114 §7.2.5: no push id was ever allowed.
            (_, Frame::Whole { kind: kind::PUSH_PROMISE, .. }) if self.from_server => {
                Err(ProtocolError::new(Code::ID_ERROR, "PUSH_PROMISE without permission"))
            }
            (_, frame) => {
                let kind = match frame {
                    Frame::Data(_) => kind::DATA,
                    Frame::Whole { kind, .. } => kind,
                };
                let reason = format!("frame of type {kind:#x} does not belong here on a request stream");
                Err(ProtocolError::new(Code::FRAME_UNEXPECTED, reason))
            }
        }
    }

    /// To be asked when the stream ended.
    ///
    /// # Errors
    /// FRAME_ERROR within a frame, REQUEST_INCOMPLETE before the fields.
    pub fn finish(&self) -> Result<(), ProtocolError> {
        self.frames.finish()?;
        if self.phase == Phase::Headers {
            return Err(ProtocolError::new(Code::REQUEST_INCOMPLETE, "stream ended before its fields"));
        }
        Ok(())
    }
}

/// Checks the peer's QPACK encoder stream: with a table of capacity 0 it can only say so again (RFC 9204 §3.2.3).
///
/// # Errors
/// QPACK_ENCODER_STREAM_ERROR for anything else.
pub fn check_qpack_encoder(bytes: &[u8]) -> Result<(), ProtocolError> {
    // 001xxxxx, capacity with a 5-bit prefix
    if bytes.iter().all(|byte| *byte == 0x20) {
        return Ok(());
    }
    Err(ProtocolError::new(Code::QPACK_ENCODER_STREAM_ERROR, "instruction for a dynamic table that does not exist"))
}

/// The peer's QPACK decoder stream: without a dynamic table only stream cancellations make sense (RFC 9204 §4.4).
#[derive(Debug, Default)]
pub struct QpackDecoderStream {
    within_integer: bool,
}

impl QpackDecoderStream {
    /// Checks what the stream brought.
    ///
    /// # Errors
    /// QPACK_DECODER_STREAM_ERROR for acknowledgements of what was never sent.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), ProtocolError> {
        for byte in bytes {
            if self.within_integer {
                self.within_integer = byte & 0x80 != 0;
                continue;
            }
            // 01xxxxxx, stream id with a 6-bit prefix
            if byte & 0xc0 != 0x40 {
                return Err(ProtocolError::new(
                    Code::QPACK_DECODER_STREAM_ERROR,
                    "acknowledgement of a dynamic table that does not exist",
                ));
            }
            self.within_integer = byte & 0x3f == 0x3f;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::{http3::frame::write, split::any_cuts};

    fn control(from_server: bool, frames: &[(u64, &[u8])]) -> Result<Vec<ControlEvent>, Code> {
        match read_control(from_server, &[&concat(frames)]) {
            (events, None) => Ok(events),
            (_, Some(code)) => Err(code),
        }
    }

    fn concat<T: AsRef<[u8]>>(frames: &[(u64, T)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, payload) in frames {
            write(*kind, payload.as_ref(), &mut bytes);
        }
        bytes
    }

    /// What comes until the stream is broken, and how that is.
    fn read_control(from_server: bool, pieces: &[&[u8]]) -> (Vec<ControlEvent>, Option<Code>) {
        let mut stream = ControlStream::new(from_server);
        let mut events = Vec::new();
        for piece in pieces {
            stream.push(piece);
            loop {
                match stream.next_event() {
                    Ok(Some(event)) => events.push(event),
                    Ok(None) => break,
                    Err(error) => return (events, Some(error.code)),
                }
            }
        }
        (events, None)
    }

    /// The same for a request stream and its end, pieces of DATA joined.
    fn read_request(from_server: bool, pieces: &[&[u8]]) -> (Vec<RequestEvent>, Option<Code>) {
        let mut stream = RequestStream::new(from_server);
        let mut events = Vec::new();
        for piece in pieces {
            stream.push(piece);
            loop {
                match (stream.next_event(), events.last_mut()) {
                    (Ok(Some(RequestEvent::Data(more))), Some(RequestEvent::Data(data))) => {
                        *data = [&data[..], &more].concat().into();
                    }
                    (Ok(Some(event)), _) => events.push(event),
                    (Ok(None), _) => break,
                    (Err(error), _) => return (events, Some(error.code)),
                }
            }
        }
        (events, stream.finish().err().map(|error| error.code))
    }

    const SETTINGS: (u64, &[u8]) = (kind::SETTINGS, &[]);

    #[test]
    fn the_control_stream_begins_with_settings() {
        assert_eq!(control(true, &[(kind::GOAWAY, &[0])]), Err(Code::MISSING_SETTINGS));
        assert_eq!(control(true, &[(kind::DATA, &[0])]), Err(Code::MISSING_SETTINGS));
        assert_eq!(
            control(true, &[SETTINGS, (0x21, &[1, 2, 3]), (kind::GOAWAY, &[4])]),
            Ok(vec![ControlEvent::Settings(Settings::default()), ControlEvent::GoAway(4)])
        );
    }

    #[test]
    fn wrong_frames_on_the_control_stream_have_their_codes() {
        type Sent<'a> = (bool, (u64, &'a [u8]), Code);
        let cases: [Sent<'_>; 9] = [
            (true, SETTINGS, Code::FRAME_UNEXPECTED),
            (true, (kind::DATA, &[1]), Code::FRAME_UNEXPECTED),
            (true, (kind::HEADERS, &[1]), Code::FRAME_UNEXPECTED),
            (true, (kind::PUSH_PROMISE, &[1]), Code::FRAME_UNEXPECTED),
            (true, (kind::MAX_PUSH_ID, &[1]), Code::FRAME_UNEXPECTED),
            (true, (kind::GOAWAY, &[1]), Code::ID_ERROR),
            (true, (kind::GOAWAY, &[0, 0]), Code::FRAME_ERROR),
            (false, (kind::CANCEL_PUSH, &[0]), Code::ID_ERROR),
            (false, (kind::GOAWAY, &[]), Code::FRAME_ERROR),
        ];
        for (from_server, frame, code) in cases {
            assert_eq!(control(from_server, &[SETTINGS, frame]), Err(code), "{frame:?}");
        }
        assert_eq!(control(true, &[SETTINGS, (kind::GOAWAY, &[4]), (kind::GOAWAY, &[8])]), Err(Code::ID_ERROR));
        assert!(control(false, &[SETTINGS, (kind::MAX_PUSH_ID, &[9]), (kind::GOAWAY, &[3])]).is_ok());
        let smaller: [(u64, &[u8]); 3] = [SETTINGS, (kind::MAX_PUSH_ID, &[9]), (kind::MAX_PUSH_ID, &[8])];
        assert_eq!(control(false, &smaller), Err(Code::ID_ERROR));
    }

    #[test]
    fn a_request_is_headers_content_trailers() {
        let mut bytes = Vec::new();
        for (kind, payload) in [(1, b"h"), (0, b"d"), (0x21, b"x"), (1, b"t")] {
            write(kind, payload, &mut bytes);
        }
        let mut stream = RequestStream::default();
        assert_eq!(stream.finish().unwrap_err().code, Code::REQUEST_INCOMPLETE);
        stream.push(&bytes);
        for expected in [
            RequestEvent::Headers(Bytes::from_static(b"h")),
            RequestEvent::Data(Bytes::from_static(b"d")),
            RequestEvent::Trailers(Bytes::from_static(b"t")),
        ] {
            assert_eq!(stream.next_event().unwrap(), Some(expected));
        }
        assert_eq!(stream.next_event().unwrap(), None);
        stream.finish().unwrap();
        stream.push(&[0, 1, 0]);
        assert_eq!(stream.next_event().unwrap_err().code, Code::FRAME_UNEXPECTED);
    }

    #[test]
    fn content_before_headers_is_refused() {
        for frame in [[0, 1, 0], [4, 1, 0], [7, 1, 0]] {
            let mut stream = RequestStream::default();
            stream.push(&frame);
            assert_eq!(stream.next_event().unwrap_err().code, Code::FRAME_UNEXPECTED);
        }
    }

    #[test]
    fn only_data_follows_where_a_tunnel_began() {
        let mut stream = RequestStream::default();
        stream.push(&concat(&[(kind::HEADERS, b"h"), (kind::DATA, b"d"), (0x21, b"x"), (kind::HEADERS, b"t")]));
        assert_eq!(stream.next_event().unwrap(), Some(RequestEvent::Headers(Bytes::from_static(b"h"))));
        stream.expect_tunnel();
        assert_eq!(stream.next_event().unwrap(), Some(RequestEvent::Data(Bytes::from_static(b"d"))));
        assert_eq!(stream.next_event().unwrap_err().code, Code::FRAME_UNEXPECTED);
    }

    #[test]
    fn pushes_are_refused_by_both_sides() {
        let promise = concat(&[(kind::HEADERS, b"h"), (kind::PUSH_PROMISE, b"p")]);
        assert_eq!(read_request(true, &[&promise]).1, Some(Code::ID_ERROR));
        assert_eq!(read_request(false, &[&promise]).1, Some(Code::FRAME_UNEXPECTED));
    }

    #[test]
    fn qpack_streams_bear_only_what_needs_no_table() {
        check_qpack_encoder(&[0x20, 0x20]).unwrap();
        for byte in [0x21, 0x00, 0x80, 0x40] {
            assert_eq!(check_qpack_encoder(&[byte]).unwrap_err().code, Code::QPACK_ENCODER_STREAM_ERROR);
        }
        let mut decoder = QpackDecoderStream::default();
        decoder.push(&[0x44, 0x7f, 0x81]).unwrap();
        decoder.push(&[0x02, 0x40]).unwrap();
        assert_eq!(decoder.push(&[0x80]).unwrap_err().code, Code::QPACK_DECODER_STREAM_ERROR);
        assert_eq!(decoder.push(&[0x01]).unwrap_err().code, Code::QPACK_DECODER_STREAM_ERROR);
    }

    /// RFC 9204 Appendix B.2 to B.5: a peer that did not see that there is no dynamic table.
    #[test]
    fn examples_of_rfc_9204_appendix_b() {
        let instructions: [&[u8]; 6] = [
            &[0x3f, 0xbd, 0x01],               // B.2: Set Dynamic Table Capacity, 220
            b"\xc0\x0fwww.example.com",        // B.2: Insert With Name Reference, :authority
            b"\xc1\x0c/sample/path",           // B.2: Insert With Name Reference, :path
            b"\x4acustom-key\x0ccustom-value", // B.3: Insert With Literal Name
            &[0x02],                           // B.4: Duplicate
            b"\x81\x0dcustom-value2",          // B.5: Insert With Name Reference, dynamic
        ];
        for bytes in instructions {
            let error = check_qpack_encoder(bytes).unwrap_err();
            assert_eq!(error.code, Code::QPACK_ENCODER_STREAM_ERROR, "{bytes:x?}");
        }
        let answer = |byte: u8| QpackDecoderStream::default().push(&[byte]).map_err(|error| error.code);
        assert_eq!(answer(0x84), Err(Code::QPACK_DECODER_STREAM_ERROR), "B.2: Section Acknowledgment");
        assert_eq!(answer(0x01), Err(Code::QPACK_DECODER_STREAM_ERROR), "B.3: Insert Count Increment");
        assert_eq!(answer(0x48), Ok(()), "B.4: Stream Cancellation");
    }

    fn any_control_frame() -> impl Strategy<Value = (u64, Vec<u8>)> {
        let integer = (0..16u64).prop_map(|id| {
            let mut payload = Vec::new();
            varint::write(id, &mut payload);
            payload
        });
        let settings = (any::<bool>(), any::<bool>()).prop_map(|(enable_connect_protocol, h3_datagram)| {
            Settings { enable_connect_protocol, h3_datagram, max_field_section_size: None }.encode()
        });
        prop_oneof![
            4 => (Just(kind::GOAWAY), integer.clone()),
            2 => (Just(kind::MAX_PUSH_ID), integer),
            2 => (Just(0x21), proptest::collection::vec(any::<u8>(), 0..20)),
            1 => (Just(kind::SETTINGS), settings),
            1 => (0..0x10u64, proptest::collection::vec(any::<u8>(), 0..20)),
        ]
    }

    proptest! {
        #[test]
        fn any_split_of_a_control_stream_gives_the_same(
            from_server: bool,
            frames in proptest::collection::vec(any_control_frame(), 0..6),
            cuts in any_cuts(),
        ) {
            let bytes = [concat(&[SETTINGS]), concat(&frames)].concat();
            prop_assert_eq!(read_control(from_server, &cuts.pieces(&bytes)), read_control(from_server, &[&bytes]));
        }

        #[test]
        fn any_split_of_a_request_stream_gives_the_same(
            from_server: bool,
            frames in proptest::collection::vec(
                (prop_oneof![4 => 0..2u64, 1 => 0..0x22u64], proptest::collection::vec(any::<u8>(), 0..30)),
                0..6,
            ),
            end in proptest::collection::vec(any::<u8>(), 0..3),
            cuts in any_cuts(),
        ) {
            let bytes = [concat(&[(kind::HEADERS, b"h")]), concat(&frames), end].concat();
            prop_assert_eq!(read_request(from_server, &cuts.pieces(&bytes)), read_request(from_server, &[&bytes]));
        }

        #[test]
        fn any_split_of_qpack_streams_gives_the_same(
            bytes in proptest::collection::vec(prop::sample::select(vec![0x20, 0x44, 0x7f, 0xff, 0x80, 0x01]), 0..12),
            cuts in any_cuts(),
        ) {
            let whole = QpackDecoderStream::default().push(&bytes);
            let mut decoder = QpackDecoderStream::default();
            let split = cuts.pieces(&bytes).iter().try_for_each(|piece| decoder.push(piece));
            prop_assert_eq!(split, whole);
            let split = cuts.pieces(&bytes).iter().try_for_each(|piece| check_qpack_encoder(piece));
            prop_assert_eq!(split, check_qpack_encoder(&bytes));
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300), cuts in any_cuts()) {
            for from_server in [false, true] {
                let pieces = cuts.pieces(&bytes);
                prop_assert_eq!(read_control(from_server, &pieces), read_control(from_server, &[&bytes]));
                prop_assert_eq!(read_request(from_server, &pieces), read_request(from_server, &[&bytes]));
            }
        }
    }
}
