//! A control stream (RFC 9114 §6.2.1), and the same bytes as the two streams of QPACK (RFC 9204 §4.2). The first byte says
//! who the peer is, and how the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    http3::{
        Code, ProtocolError,
        frame::{self, MAX_BUFFERED},
        settings::Settings,
        stream::{ControlEvent, ControlStream, QpackDecoderStream, check_qpack_encoder},
    },
    memory, pieces,
};

/// Heap for a stream that goes on for ever: a frame that is not whole yet, in a buffer that doubled, and beside it the one
/// that grew too small.
const BOUND: usize = 8 * MAX_BUFFERED as usize;

fuzz_target!(|input: &[u8]| {
    let Some((&first, stream)) = input.split_first() else { return };
    let (from_server, seed) = (first & 1 != 0, first >> 1);
    let ((events, error), peak) = memory::peak(|| read(from_server, [stream]));
    assert!(peak <= 64 * stream.len() + 1024, "{peak} bytes of heap for {}", stream.len());
    check(from_server, &events);
    assert_eq!(read(from_server, pieces::split(seed, stream)), (events, error));
    if pieces::is_chosen(input) {
        let (_, peak) = memory::peak(|| read_on(from_server, stream));
        assert!(peak <= BOUND + 4 * stream.len(), "{peak} bytes of heap for an endless stream");
    }

    let whole = QpackDecoderStream::default().push(stream);
    let mut decoder = QpackDecoderStream::default();
    assert_eq!(pieces::split(seed, stream).into_iter().try_for_each(|piece| decoder.push(piece)), whole);
    let whole = check_qpack_encoder(stream);
    assert_eq!(pieces::split(seed, stream).into_iter().try_for_each(check_qpack_encoder), whole);
});

/// What comes until the stream is broken, and how that is.
fn read<'a>(from_server: bool, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<ControlEvent>, Option<Code>) {
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

/// Takes what comes, and keeps nothing, until the stream is broken. SETTINGS come once only.
fn read_on(from_server: bool, stream: &[u8]) -> Result<(), ProtocolError> {
    let mut reader = ControlStream::new(from_server);
    let mut settings = Vec::new();
    frame::write(frame::kind::SETTINGS, &[], &mut settings);
    reader.push(&settings);
    for bytes in pieces::endless(stream, BOUND + BOUND / 4) {
        reader.push(&bytes);
        while reader.next_event()?.is_some() {}
    }
    Ok(())
}

/// SETTINGS come first and once, ids of GOAWAY go down only, and those of a server are requests' streams.
fn check(from_server: bool, events: &[ControlEvent]) {
    let mut last = u64::MAX;
    for (nth, event) in events.iter().enumerate() {
        match event {
            ControlEvent::Settings(settings) => {
                assert_eq!(nth, 0);
                assert_eq!(Settings::decode(&settings.encode()), Ok(*settings));
            }
            ControlEvent::GoAway(id) => {
                assert!(nth > 0 && *id <= last && (!from_server || id.is_multiple_of(4)));
                last = *id;
            }
        }
    }
}
