//! Each rule that a peer breaks has its error code.

use std::time::Duration;

use m2m_tunnel::{
    capsule::{AssignedAddress, Capsule},
    http3::{Code, frame, message::Response, stream::uni},
    qpack::Field,
    request,
    session::{CloseReason, Event},
};
use quinn_proto::{Dir, StreamId};

use crate::{
    certified::AUTHORITY,
    played::{Played, headers, settings},
    world::{Side, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// What is done wrong.
enum Wrong {
    /// On a stream of this type.
    Uni(u64, Vec<u8>),
    /// On the control stream, after SETTINGS.
    Control(Vec<u8>),
    /// On the stream of the request: instead of HEADERS from a client, after the request has come from a server.
    Request(Vec<u8>),
    /// On the stream of an open tunnel.
    Tunnel(Vec<u8>),
    /// A datagram in an open tunnel.
    Datagram(Vec<u8>),
    /// Something else, in an open tunnel whose streams these are.
    Other(fn(&mut Played, Open)),
}

use Wrong::{Control, Datagram, Other, Request, Tunnel, Uni};

/// The streams of a played peer.
#[derive(Clone, Copy)]
struct Open {
    control: StreamId,
    tunnel: StreamId,
}

#[test]
fn what_a_client_does_wrong() {
    let mut upper = request::unlimited(AUTHORITY).to_fields();
    upper.push(Field::new("Upper", "x"));
    let cases = [
        ("content first", Request(vec![0, 1, 0]), Code::FRAME_UNEXPECTED),
        ("frame of HTTP/2", Request(vec![6, 0]), Code::FRAME_UNEXPECTED),
        ("settings first", Request(vec![4, 0]), Code::FRAME_UNEXPECTED),
        ("dynamic table", Request(vec![1, 3, 0, 0, 0x80]), Code::QPACK_DECOMPRESSION_FAILED),
        ("no method", Request(headers(&[Field::new(":path", "/")])), Code::MESSAGE_ERROR),
        ("upper case", Request(headers(&upper)), Code::MESSAGE_ERROR),
        ("huge fields", Request(vec![1, 0x80, 1, 0, 0]), Code::EXCESSIVE_LOAD),
        ("push", Uni(uni::PUSH, vec![0]), Code::STREAM_CREATION_ERROR),
        ("larger and smaller push ids", Control(vec![0x0d, 1, 9, 0x0d, 1, 8]), Code::ID_ERROR),
        ("no address wished for", Tunnel(vec![0, 2, 2, 0]), Code::MESSAGE_ERROR),
    ];
    check(Side::Client, cases);
}

#[test]
fn what_a_server_does_wrong() {
    let mut with_length = request::granted();
    with_length.fields.push(Field::new("content-length", "0"));
    let interim = headers(&Response { status: http::StatusCode::PROCESSING, fields: vec![] }.to_fields());
    let cases = [
        ("content first", Request(vec![0, 1, 0]), Code::FRAME_UNEXPECTED),
        ("frame of HTTP/2", Request(vec![6, 0]), Code::FRAME_UNEXPECTED),
        ("no status", Request(headers(&[Field::new("x", "y")])), Code::MESSAGE_ERROR),
        ("length of a tunnel", Request(headers(&with_length.to_fields())), Code::MESSAGE_ERROR),
        ("content after an interim answer", Request([interim, vec![0, 1, 0]].concat()), Code::FRAME_UNEXPECTED),
        ("push", Uni(uni::PUSH, vec![0]), Code::ID_ERROR),
        ("allows pushes", Control(vec![0x0d, 1, 0]), Code::FRAME_UNEXPECTED),
        ("leaves a stream of its own", Control(vec![7, 1, 1]), Code::ID_ERROR),
        ("leaves later than it said", Control(vec![7, 1, 4, 7, 1, 8]), Code::ID_ERROR),
    ];
    check(Side::Server, cases);
}

#[test]
fn what_both_do_wrong() {
    let backwards = vec![0, 12, 3, 10, 4, 9, 0, 0, 0, 8, 0, 0, 0, 0];
    for side in [Side::Client, Side::Server] {
        let cases = [
            ("no settings", Uni(uni::CONTROL, vec![7, 1, 0]), Code::MISSING_SETTINGS),
            ("content on control", Uni(uni::CONTROL, vec![4, 0, 0, 1, 0]), Code::FRAME_UNEXPECTED),
            ("settings twice", Uni(uni::CONTROL, vec![4, 0, 4, 0]), Code::FRAME_UNEXPECTED),
            ("setting of HTTP/2", Uni(uni::CONTROL, vec![4, 2, 2, 0]), Code::SETTINGS_ERROR),
            ("setting twice", Uni(uni::CONTROL, vec![4, 4, 0x33, 1, 0x33, 1]), Code::SETTINGS_ERROR),
            ("setting that is no flag", Uni(uni::CONTROL, vec![4, 2, 0x33, 2]), Code::SETTINGS_ERROR),
            ("settings cut", Uni(uni::CONTROL, vec![4, 1, 0x33]), Code::FRAME_ERROR),
            ("frame of HTTP/2 on control", Control(vec![8, 0]), Code::FRAME_UNEXPECTED),
            ("cancelled push", Control(vec![3, 1, 0]), Code::ID_ERROR),
            ("dynamic entry", Uni(uni::QPACK_ENCODER, vec![0x3f, 1]), Code::QPACK_ENCODER_STREAM_ERROR),
            ("acknowledgement", Uni(uni::QPACK_DECODER, vec![0x80]), Code::QPACK_DECODER_STREAM_ERROR),
            ("version 5", Tunnel(vec![0, 9, 1, 7, 0, 5, 10, 0, 0, 1, 32]), Code::MESSAGE_ERROR),
            ("range backwards", Tunnel(backwards.clone()), Code::MESSAGE_ERROR),
            ("huge capsule", Tunnel(vec![0, 5, 1, 0xa0, 0, 0, 0]), Code::EXCESSIVE_LOAD),
            ("settings in a tunnel", Tunnel(vec![4, 0]), Code::FRAME_UNEXPECTED),
            ("frame of HTTP/2 in a tunnel", Tunnel(vec![9, 0]), Code::FRAME_UNEXPECTED),
            ("datagram without a stream", Datagram(vec![0x40]), Code::DATAGRAM_ERROR),
            ("empty datagram", Datagram(vec![]), Code::DATAGRAM_ERROR),
            ("stream that cannot be", Datagram(vec![0xff; 8]), Code::DATAGRAM_ERROR),
            ("control closed", Other(|peer, open| peer.finish(open.control)), Code::CLOSED_CRITICAL_STREAM),
            (
                "control given up",
                Other(|peer, open| peer.reset(open.control, Code::NO_ERROR)),
                Code::CLOSED_CRITICAL_STREAM,
            ),
            ("second control", Other(|peer, _| _ = peer.open_uni(uni::CONTROL, &[4, 0])), Code::STREAM_CREATION_ERROR),
            (
                "encoder closed",
                Other(|peer, _| {
                    let stream = peer.open_uni(uni::QPACK_ENCODER, &[]);
                    peer.finish(stream);
                }),
                Code::CLOSED_CRITICAL_STREAM,
            ),
            (
                "end within a capsule",
                Other(|peer, open| {
                    peer.write(open.tunnel, &[0, 2, 1, 7]);
                    peer.finish(open.tunnel);
                }),
                Code::MESSAGE_ERROR,
            ),
        ];
        check(side, cases);
    }
}

/// Does it, and looks at what both sides are told.
fn check(side: Side, cases: impl IntoIterator<Item = (&'static str, Wrong, Code)>) {
    for (name, wrong, code) in cases {
        let mut world = World::played(side);
        match wrong {
            Uni(kind, bytes) => _ = world.end(side).played().open_uni(kind, &bytes),
            Control(bytes) => {
                let control = world.end(side).played().open_control(&settings(side == Side::Server));
                world.end(side).played().write(control, &bytes);
            }
            Request(bytes) => {
                world.end(side).played().open_control(&settings(side == Side::Server));
                world.run(SECOND);
                match side {
                    Side::Client => _ = world.client.played().open_request(&bytes),
                    Side::Server => {
                        let stream = world.server.played().requests[0];
                        world.server.played().write(stream, &bytes);
                    }
                }
            }
            Tunnel(bytes) => {
                let open = open(&mut world, side);
                world.end(side).played().write(open.tunnel, &bytes);
            }
            Datagram(bytes) => {
                open(&mut world, side);
                world.end(side).played().send_datagram(&bytes);
            }
            Other(act) => {
                let open = open(&mut world, side);
                act(world.end(side).played(), open);
            }
        }
        world.run(SECOND);
        assert_eq!(world.end(side).played().told(), Some(code), "{side:?}, {name}");
        let closed = world.end(side.other()).take(|event| matches!(event, Event::Closed(_)));
        let Some(Event::Closed(CloseReason::Protocol { code: seen, .. })) = closed else {
            panic!("{side:?}, {name}: {closed:?}")
        };
        assert_eq!(seen, code, "{side:?}, {name}");
    }
}

/// Opens the tunnel between the session and the one that is played.
fn open(world: &mut World, side: Side) -> Open {
    let control = world.end(side).played().open_control(&settings(side == Side::Server));
    let tunnel = match side {
        Side::Client => {
            let fields = request::unlimited(AUTHORITY).to_fields();
            world.client.played().open_request(&headers(&fields))
        }
        Side::Server => {
            world.run(SECOND);
            let stream = world.server.played().requests[0];
            world.server.played().write(stream, &headers(&request::granted().to_fields()));
            stream
        }
    };
    world.run(SECOND);
    assert!(world.end(side.other()).is_open());
    Open { control, tunnel }
}

#[test]
fn what_is_unknown_is_passed_over() {
    for side in [Side::Client, Side::Server] {
        let mut world = World::played(side);
        let unknown = world.end(side).played().open_uni(0x21, &[1, 2, 3]);
        let streams = open(&mut world, side);
        let played = world.end(side).played();
        played.write(streams.control, &[0x21, 2, 9, 9]);
        played.write(streams.tunnel, &[0x21, 1, 9]);
        // Another capsule, in two pieces, and a packet in one.
        played.write(streams.tunnel, &[0, 2, 0x29, 3]);
        let mut capsule = vec![1, 2, 3];
        Capsule::Datagram(bytes::Bytes::from_static(&[0, 0x45, 1, 2])).encode(&mut capsule);
        let mut content = Vec::new();
        frame::write(frame::kind::DATA, &capsule, &mut content);
        played.write(streams.tunnel, &content);
        // Another stream, another context, no context, the same numbers in another spelling, and at last a packet.
        for datagram in [&[1, 0, 0x45][..], &[0, 2, 0x45], &[0], &[0x40, 0, 0x40, 0, 0x46], &[0, 0, 0x47]] {
            played.send_datagram(datagram);
        }
        world.run(SECOND);
        let mut packets = world.end(side.other()).packets.clone();
        packets.sort();
        assert_eq!(packets, [&[0x45, 1, 2][..], &[0x46], &[0x47]], "{side:?}");
        let played = world.end(side).played();
        assert_eq!(played.stop_code(unknown), Some(Code::STREAM_CREATION_ERROR));
        assert_eq!(played.told(), None);
        assert!(world.end(side.other()).is_open());
    }
}

#[test]
fn an_interim_answer_is_not_the_answer() {
    let mut world = World::played(Side::Server);
    world.server.played().open_control(&settings(true));
    world.run(SECOND);
    let stream = world.server.played().requests[0];
    for (status, is_open) in [(http::StatusCode::PROCESSING, false), (http::StatusCode::OK, true)] {
        let response = Response { status, ..request::granted() };
        world.server.played().write(stream, &headers(&response.to_fields()));
        world.run(SECOND);
        assert_eq!(world.client.is_open(), is_open, "{status}");
    }
}

#[test]
fn a_second_request_is_not_processed() {
    let mut world = World::played(Side::Client);
    open(&mut world, Side::Client);
    let fields = request::unlimited(AUTHORITY).to_fields();
    let second = world.client.played().open_request(&headers(&fields));
    world.run(SECOND);
    assert_eq!(world.client.played().reset_code(second), Some(Code::REQUEST_REJECTED));
    assert_eq!(world.client.played().stop_code(second), Some(Code::REQUEST_REJECTED));
    assert_eq!(world.client.played().told(), None);
    world.client.played().send_datagram(&[0, 0, 0x45]);
    world.run(SECOND);
    assert_eq!(world.server.packets, [&[0x45][..]]);
}

#[test]
fn a_server_has_no_stream_for_a_request() {
    let mut world = World::played(Side::Server);
    open(&mut world, Side::Server);
    assert_eq!(world.server.played().quic.streams().open(quinn_proto::Dir::Bi), None);
}

#[test]
fn the_end_of_the_stream_is_the_end_of_the_tunnel() {
    let given_up = CloseReason::Peer { code: Code::REQUEST_CANCELLED, reason: String::new() };
    type Ending = fn(&mut Played, StreamId);
    let cases: [(Ending, CloseReason); 2] = [
        (|peer, stream| peer.finish(stream), CloseReason::Ended),
        (|peer, stream| peer.reset(stream, Code::REQUEST_CANCELLED), given_up),
    ];
    for side in [Side::Client, Side::Server] {
        for (end, reason) in &cases {
            let mut world = World::played(side);
            let streams = open(&mut world, side);
            end(world.end(side).played(), streams.tunnel);
            world.run(SECOND);
            let closed = world.end(side.other()).take(|event| matches!(event, Event::Closed(_)));
            assert_eq!(closed, Some(Event::Closed(reason.clone())), "{side:?}");
            assert_eq!(world.end(side).played().told(), Some(Code::NO_ERROR), "{side:?}");
        }
    }
}

#[test]
fn who_opens_streams_without_end_is_disconnected() {
    for dir in [Dir::Uni, Dir::Bi] {
        let mut world = World::played(Side::Client);
        open(&mut world, Side::Client);
        let mut opened = 0;
        while world.client.played().told().is_none() {
            while let Some(stream) = world.client.played().quic.streams().open(dir) {
                world.client.played().write(stream, &[0x21]);
                world.client.played().reset(stream, Code::REQUEST_CANCELLED);
                opened += 1;
            }
            assert!(opened < 100, "{dir:?}");
            world.run(SECOND);
        }
        assert_eq!(world.client.played().told(), Some(Code::EXCESSIVE_LOAD), "{dir:?}");
        assert!(opened > 50, "{dir:?}: {opened} streams");
    }
}

#[test]
fn who_takes_no_answers_is_disconnected() {
    let mut world = World::open(1);
    let address = AssignedAddress::unrequested("10.99.0.2/32".parse().unwrap());
    for _ in 0..16 {
        world.server.session().assign_addresses(vec![address; 5000]);
    }
    world.run(SECOND);
    let closed = world.client.take(|event| matches!(event, Event::Closed(_)));
    let reason = "answers are not taken".to_owned();
    assert_eq!(closed, Some(Event::Closed(CloseReason::Peer { code: Code::EXCESSIVE_LOAD, reason })));
}

#[test]
fn packets_before_the_tunnel_are_for_nobody() {
    let mut world = World::played(Side::Client);
    world.client.played().open_control(&settings(false));
    world.run(SECOND);
    world.client.played().send_datagram(&[0, 0, 0x45]);
    world.run(SECOND);
    world.client.played().open_request(&headers(&request::unlimited(AUTHORITY).to_fields()));
    world.run(SECOND);
    world.client.played().send_datagram(&[0, 0, 0x46]);
    world.run(SECOND);
    assert_eq!(world.server.packets, [&[0x46][..]]);
}
