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
}

impl ControlStream {
    /// `from_server` says who the peer is.
    #[must_use]
    pub fn new(from_server: bool) -> Self {
        Self { frames: FrameReader::default(), from_server, settings_seen: false, last_goaway: u64::MAX }
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
                // Push is never offered here, so the only thing left to check is the layout.
                kind::MAX_PUSH_ID if !self.from_server => {
                    single(&payload)?;
                }
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
    phase: Phase,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Headers,
    Content,
    Done,
}

impl RequestStream {
    /// Adds what the stream brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.frames.push(bytes);
    }

    /// To be called when the last [`RequestEvent::Headers`] was an interim answer: more of them follow.
    pub fn expect_headers(&mut self) {
        self.phase = Phase::Headers;
    }

    /// The next event; `None` when more input is needed.
    ///
    /// # Errors
    /// A connection error: FRAME_UNEXPECTED when the order is wrong, or the frame's own error.
    pub fn next_event(&mut self) -> Result<Option<RequestEvent>, ProtocolError> {
        let Some(frame) = self.frames.next_frame()? else {
            return Ok(None);
        };
        match (self.phase, frame) {
            (Phase::Headers, Frame::Whole { kind: kind::HEADERS, payload }) => {
                self.phase = Phase::Content;
                Ok(Some(RequestEvent::Headers(payload)))
            }
            (Phase::Content, Frame::Data(piece)) => Ok(Some(RequestEvent::Data(piece))),
            (Phase::Content, Frame::Whole { kind: kind::HEADERS, payload }) => {
                self.phase = Phase::Done;
                Ok(Some(RequestEvent::Trailers(payload)))
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
    use crate::http3::frame::write;

    fn control(from_server: bool, frames: &[(u64, &[u8])]) -> Result<Vec<ControlEvent>, Code> {
        let mut bytes = Vec::new();
        for (kind, payload) in frames {
            write(*kind, payload, &mut bytes);
        }
        let mut stream = ControlStream::new(from_server);
        stream.push(&bytes);
        let mut events = Vec::new();
        while let Some(event) = stream.next_event().map_err(|error| error.code)? {
            events.push(event);
        }
        Ok(events)
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

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = RequestStream::default();
            stream.push(&bytes);
            while let Ok(Some(_)) = stream.next_event() {}
            let mut stream = ControlStream::new(true);
            stream.push(&bytes);
            while let Ok(Some(_)) = stream.next_event() {}
        }
    }
}
