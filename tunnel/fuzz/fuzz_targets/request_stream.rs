//! One direction of a request stream (RFC 9114 §4.1): frames, and in them field sections and capsules. The first byte says
//! who the peer is, and how the stream is cut.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    capsule::CapsuleReader,
    http3::{
        Code, ProtocolError,
        frame::{self, MAX_BUFFERED, kind},
        message::{Request, Response},
        stream::{RequestEvent, RequestStream},
    },
    memory, pieces, qpack, request,
};

/// Heap for a stream that goes on for ever: a frame that is not whole yet, in a buffer that doubled, and beside it the one
/// that grew too small.
const BOUND: usize = 8 * MAX_BUFFERED as usize;

fuzz_target!(|input: &[u8]| {
    let Some((&first, stream)) = input.split_first() else { return };
    let (from_server, seed) = (first & 1 != 0, first >> 1);
    let (events, end) = read(from_server, [stream]);
    assert_eq!(read(from_server, pieces::split(seed, stream)), (events.clone(), end));
    assert_eq!(read(from_server, [&frames(&events)[..]]).0, events);
    content(&events);
    let (_, peak) = memory::peak(|| read_on(from_server, [stream]));
    assert!(peak <= 8 * stream.len() + 1024, "{peak} bytes of heap for {}", stream.len());
    if pieces::is_chosen(input) {
        let (_, peak) = memory::peak(|| read_on(from_server, pieces::endless(stream, BOUND + BOUND / 4)));
        assert!(peak <= BOUND + 4 * stream.len(), "{peak} bytes of heap for an endless stream");
    }
});

/// What comes until the stream ends or is broken, pieces of DATA joined, and how that is. A tunnel begins with the first
/// fields of a client, and with those of a server that are no interim answer.
fn read<'a>(from_server: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<RequestEvent>, Option<Code>) {
    let mut stream = RequestStream::new(from_server);
    let mut events = Vec::new();
    for piece in pieces {
        stream.push(piece);
        loop {
            match (stream.next_event(), events.last_mut()) {
                (Ok(Some(RequestEvent::Data(more))), Some(RequestEvent::Data(data))) => {
                    *data = [&data[..], &more].concat().into();
                }
                (Ok(Some(event)), _) => {
                    if let RequestEvent::Headers(section) = &event {
                        begin(&mut stream, section);
                    }
                    events.push(event);
                }
                (Ok(None), _) => break,
                (Err(error), _) => return (events, Some(error.code)),
            }
        }
    }
    (events, stream.finish().err().map(|error| error.code))
}

/// Takes what comes, and keeps nothing, until the stream is broken. After trailers it begins again, so that there is no end.
fn read_on(from_server: bool, pieces: impl IntoIterator<Item: AsRef<[u8]>>) -> Result<(), ProtocolError> {
    let mut reader = RequestStream::new(from_server);
    for piece in pieces {
        reader.push(piece.as_ref());
        while let Some(event) = reader.next_event()? {
            if matches!(event, RequestEvent::Trailers(_)) {
                reader.expect_headers();
            }
        }
    }
    Ok(())
}

fn begin(stream: &mut RequestStream, section: &Bytes) {
    let fields = qpack::decode(section).unwrap_or_default();
    match Response::from_fields(fields.clone()) {
        Ok(response) if response.status.is_informational() => stream.expect_headers(),
        Ok(response) if request::starts_capsules(&response) => stream.expect_tunnel(),
        _ if Request::from_fields(fields).is_ok_and(|request| request::scope(&request).is_ok()) => {
            stream.expect_tunnel()
        }
        _ => {}
    }
}

/// The events as their sender would have written them.
fn frames(events: &[RequestEvent]) -> Vec<u8> {
    let mut out = Vec::new();
    for event in events {
        match event {
            RequestEvent::Headers(section) | RequestEvent::Trailers(section) => {
                frame::write(kind::HEADERS, section, &mut out);
            }
            RequestEvent::Data(data) => frame::write(kind::DATA, data, &mut out),
        }
    }
    out
}

/// DATA is capsules.
fn content(events: &[RequestEvent]) {
    let mut capsules = CapsuleReader::default();
    for event in events {
        if let RequestEvent::Data(data) = event {
            assert!(!data.is_empty());
            capsules.push(data);
            while let Ok(Some(_)) = capsules.next_capsule() {}
        }
    }
}
