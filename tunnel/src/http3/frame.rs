//! Frames (RFC 9114 §7).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Code, ProtocolError};
use crate::varint;

/// Frame types.
pub mod kind {
    /// Content, here capsules.
    pub const DATA: u64 = 0x00;
    /// A field section.
    pub const HEADERS: u64 = 0x01;
    /// Only with server push.
    pub const CANCEL_PUSH: u64 = 0x03;
    /// First on every control stream.
    pub const SETTINGS: u64 = 0x04;
    /// Only with server push.
    pub const PUSH_PROMISE: u64 = 0x05;
    /// The sender is about to leave.
    pub const GOAWAY: u64 = 0x07;
    /// Only with server push.
    pub const MAX_PUSH_ID: u64 = 0x0d;
}

/// The longest payload in bytes of a frame that is read as a whole. DATA and unknown frames have no limit: they are
/// handed on in pieces, and skipped.
pub const MAX_BUFFERED: u64 = 16 * 1024;

/// Appends a frame's type and length.
pub fn write_header(kind: u64, length: u64, out: &mut impl BufMut) {
    varint::write(kind, out);
    varint::write(length, out);
}

/// Appends a whole frame.
pub fn write(kind: u64, payload: &[u8], out: &mut impl BufMut) {
    write_header(kind, payload.len() as u64, out);
    out.put_slice(payload);
}

/// What [`FrameReader`] finds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A piece of a DATA frame's payload, never empty.
    Data(Bytes),
    /// A whole frame of another known type.
    Whole {
        /// One of [`kind`].
        kind: u64,
        /// What it carries.
        payload: Bytes,
    },
}

/// Cuts a stream into frames, however its bytes arrive. Unknown frames are skipped (RFC 9114 §9).
#[derive(Debug, Default)]
pub struct FrameReader {
    input: BytesMut,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    Data(u64),
    Buffered(u64, usize),
    Skipped(u64),
}

impl FrameReader {
    /// Adds what the stream brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next frame or piece of one; `None` when more input is needed.
    ///
    /// # Errors
    /// FRAME_UNEXPECTED for a type that HTTP/2 had and HTTP/3 reserves, EXCESSIVE_LOAD for a frame over
    /// [`MAX_BUFFERED`].
    pub fn next_frame(&mut self) -> Result<Option<Frame>, ProtocolError> {
        loop {
            match self.state {
                State::Header => {
                    let Some((kind, length)) = self.take_header() else {
                        return Ok(None);
                    };
                    self.state = Self::body(kind, length)?;
                }
                State::Data(0) | State::Skipped(0) => self.state = State::Header,
                State::Data(left) => {
                    let Some(piece) = self.take_up_to(left) else {
                        return Ok(None);
                    };
                    self.state = State::Data(left - piece.len() as u64);
                    return Ok(Some(Frame::Data(piece)));
                }
                State::Skipped(left) => {
                    let Some(piece) = self.take_up_to(left) else {
                        return Ok(None);
                    };
                    self.state = State::Skipped(left - piece.len() as u64);
                }
                State::Buffered(kind, length) => {
                    if self.input.len() < length {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let payload = self.input.split_to(length).freeze();
                    return Ok(Some(Frame::Whole { kind, payload }));
                }
            }
        }
    }

    /// To be asked when the stream ended.
    ///
    /// # Errors
    /// FRAME_ERROR when it ended within a frame (RFC 9114 §7.1).
    pub fn finish(&self) -> Result<(), ProtocolError> {
        match self.state {
            State::Header | State::Data(0) | State::Skipped(0) if self.input.is_empty() => Ok(()),
            _ => Err(ProtocolError::new(Code::FRAME_ERROR, "stream ended within a frame")),
        }
    }

    fn body(kind: u64, length: u64) -> Result<State, ProtocolError> {
        match kind {
            kind::DATA => Ok(State::Data(length)),
            kind::HEADERS
            | kind::CANCEL_PUSH
            | kind::SETTINGS
            | kind::PUSH_PROMISE
            | kind::GOAWAY
            | kind::MAX_PUSH_ID => {
                if length > MAX_BUFFERED {
                    return Err(ProtocolError::new(
                        Code::EXCESSIVE_LOAD,
                        format!("frame of type {kind:#x} has {length} bytes, at most {MAX_BUFFERED} are read"),
                    ));
                }
                Ok(State::Buffered(kind, length as usize))
            }
            // RFC 9114 §7.2.8
            0x02 | 0x06 | 0x08 | 0x09 => {
                Err(ProtocolError::new(Code::FRAME_UNEXPECTED, format!("frame type {kind:#x} is reserved")))
            }
            _ => Ok(State::Skipped(length)),
        }
    }

    fn take_header(&mut self) -> Option<(u64, u64)> {
        let (kind, kind_size) = varint::read(&self.input)?;
        let (length, length_size) = varint::read(&self.input[kind_size..])?;
        self.input.advance(kind_size + length_size);
        Some((kind, length))
    }

    fn take_up_to(&mut self, left: u64) -> Option<Bytes> {
        let available = self.input.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        (available > 0).then(|| self.input.split_to(available).freeze())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;
    use crate::split::any_cuts;

    /// Everything that `reader` gives, pieces of DATA joined.
    fn drain(reader: &mut FrameReader, out: &mut Vec<(u64, Vec<u8>)>) {
        while let Some(frame) = reader.next_frame().unwrap() {
            match frame {
                Frame::Data(piece) => match out.last_mut() {
                    Some((kind::DATA, data)) => data.extend_from_slice(&piece),
                    _ => out.push((kind::DATA, piece.to_vec())),
                },
                Frame::Whole { kind, payload } => out.push((kind, payload.to_vec())),
            }
        }
    }

    fn any_frame() -> impl Strategy<Value = (u64, Vec<u8>)> {
        let kinds = prop_oneof![
            Just(kind::DATA),
            Just(kind::HEADERS),
            Just(kind::SETTINGS),
            Just(kind::GOAWAY),
            Just(0x21),
            Just(0x1f * 1_000_000 + 0x21),
        ];
        (kinds, proptest::collection::vec(any::<u8>(), 0..200))
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same(
            frames in proptest::collection::vec(any_frame(), 0..8),
            cuts in any_cuts(),
        ) {
            let mut bytes = Vec::new();
            let mut expected: Vec<(u64, Vec<u8>)> = Vec::new();
            for (kind, payload) in &frames {
                write(*kind, payload, &mut bytes);
                if *kind == kind::DATA && payload.is_empty() || *kind > kind::MAX_PUSH_ID {
                    continue;
                }
                match expected.last_mut() {
                    Some((kind::DATA, data)) if *kind == kind::DATA => data.extend(payload),
                    _ => expected.push((*kind, payload.clone())),
                }
            }
            let mut reader = FrameReader::default();
            let mut found = Vec::new();
            for piece in cuts.pieces(&bytes) {
                reader.push(piece);
                drain(&mut reader, &mut found);
            }
            prop_assert_eq!(found, expected);
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }

    #[test]
    fn types_to_grease_are_skipped() {
        // RFC 9114 §7.2.8: 0x1f * N + 0x21, the last that fits included.
        for nth in [0, 1, 1000, ((1 << 62) - 1 - 0x21) / 0x1f] {
            let mut bytes = Vec::new();
            write(0x1f * nth + 0x21, b"grease", &mut bytes);
            write(kind::GOAWAY, &[0], &mut bytes);
            let mut reader = FrameReader::default();
            reader.push(&bytes);
            let expected = Frame::Whole { kind: kind::GOAWAY, payload: Bytes::from_static(&[0]) };
            assert_eq!(reader.next_frame().unwrap(), Some(expected));
            reader.finish().unwrap();
        }
    }

    #[test]
    fn reserved_types_are_refused() {
        for kind in [0x02, 0x06, 0x08, 0x09] {
            let mut reader = FrameReader::default();
            reader.push(&[kind, 0]);
            assert_eq!(reader.next_frame().unwrap_err().code, Code::FRAME_UNEXPECTED);
        }
    }

    #[test]
    fn large_frames_are_refused_before_they_arrive() {
        let mut header = Vec::new();
        write_header(kind::HEADERS, MAX_BUFFERED + 1, &mut header);
        let mut reader = FrameReader::default();
        reader.push(&header);
        assert_eq!(reader.next_frame().unwrap_err().code, Code::EXCESSIVE_LOAD);
    }

    #[test]
    fn an_end_within_a_frame_is_seen() {
        for cut in [&[0x01][..], &[0x01, 2, 0], &[0x00, 2, 0], &[0x21, 1]] {
            let mut reader = FrameReader::default();
            reader.push(cut);
            while reader.next_frame().unwrap().is_some() {}
            assert_eq!(reader.finish().unwrap_err().code, Code::FRAME_ERROR, "{cut:?}");
        }
    }
}
