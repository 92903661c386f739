//! Each rule that a peer breaks has its error code.

use m2m_tunnel::{
    client::{ConnectError, ConnectRequest, connect},
    http3::{Code, frame, message::Response, stream::uni},
    qpack::{self, Field},
    request,
    server::accept,
    session::{CloseReason, Event},
};
use quinn::{Connection, RecvStream, SendStream};

use crate::loopback::{AUTHORITY, Ends, ends, event, open_control, open_uni, settings, soon};

/// Asks for a tunnel without the help of the client: control stream, request, answer.
pub(crate) async fn ask_by_hand(connection: &Connection) -> (SendStream, SendStream, RecvStream) {
    let control = open_control(connection, &settings(false)).await;
    let (mut outbound, inbound) = connection.open_bi().await.unwrap();
    let mut bytes = Vec::new();
    let fields = request::unlimited(AUTHORITY).to_fields();
    frame::write(frame::kind::HEADERS, &qpack::encode(&fields), &mut bytes);
    outbound.write_all(&bytes).await.unwrap();
    (control, outbound, inbound)
}

/// The code with which `connection` was closed by its peer.
async fn told(connection: &Connection) -> Code {
    match soon(connection.closed()).await.into() {
        CloseReason::Peer { code, .. } => code,
        other => panic!("not closed by the peer: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_wrong_before_its_request() {
    let headers = |fields: &[Field]| {
        let mut bytes = Vec::new();
        frame::write(frame::kind::HEADERS, &qpack::encode(fields), &mut bytes);
        bytes
    };
    let mut upper = request::unlimited(AUTHORITY).to_fields();
    upper.push(Field::new("Upper", "x"));
    let cases: [(&str, Vec<u8>, Code); 6] = [
        ("content first", vec![0, 1, 0], Code::FRAME_UNEXPECTED),
        ("frame of HTTP/2", vec![6, 0], Code::FRAME_UNEXPECTED),
        ("dynamic table", vec![1, 3, 0, 0, 0x80], Code::QPACK_DECOMPRESSION_FAILED),
        ("no method", headers(&[Field::new(":path", "/")]), Code::MESSAGE_ERROR),
        ("upper case", headers(&upper), Code::MESSAGE_ERROR),
        ("huge fields", vec![1, 0x80, 1, 0, 0], Code::EXCESSIVE_LOAD),
    ];
    for (name, bytes, code) in cases {
        let ends = ends().await;
        let serving = tokio::spawn(accept(ends.server.clone()));
        let _control = open_control(&ends.client, &settings(false)).await;
        let (mut outbound, _inbound) = ends.client.open_bi().await.unwrap();
        outbound.write_all(&bytes).await.unwrap();
        assert_eq!(told(&ends.client).await, code, "{name}");
        assert!(soon(serving).await.unwrap().is_err(), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_does_wrong_on_unidirectional_streams() {
    let cases: [(&str, u64, &[u8], Code); 8] = [
        ("no settings", uni::CONTROL, &[7, 1, 0], Code::MISSING_SETTINGS),
        ("content on control", uni::CONTROL, &[4, 0, 0, 1, 0], Code::FRAME_UNEXPECTED),
        ("settings twice", uni::CONTROL, &[4, 0, 4, 0], Code::FRAME_UNEXPECTED),
        ("setting of HTTP/2", uni::CONTROL, &[4, 2, 2, 0], Code::SETTINGS_ERROR),
        ("settings cut", uni::CONTROL, &[4, 1, 0x33], Code::FRAME_ERROR),
        ("push", uni::PUSH, &[0], Code::STREAM_CREATION_ERROR),
        ("dynamic entry", uni::QPACK_ENCODER, &[0x3f, 1], Code::QPACK_ENCODER_STREAM_ERROR),
        ("acknowledgement", uni::QPACK_DECODER, &[0x80], Code::QPACK_DECODER_STREAM_ERROR),
    ];
    for (name, kind, bytes, code) in cases {
        let ends = ends().await;
        let _serving = tokio::spawn(accept(ends.server.clone()));
        let _stream = open_uni(&ends.client, kind, bytes).await;
        assert_eq!(told(&ends.client).await, code, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn critical_streams_come_once_and_stay() {
    let both = ends().await;
    let _serving = tokio::spawn(accept(both.server.clone()));
    let _first = open_control(&both.client, &settings(false)).await;
    let _second = open_control(&both.client, &settings(false)).await;
    assert_eq!(told(&both.client).await, Code::STREAM_CREATION_ERROR);

    let ends = ends().await;
    let _serving = tokio::spawn(accept(ends.server.clone()));
    let mut control = open_control(&ends.client, &settings(false)).await;
    control.finish().unwrap();
    assert_eq!(told(&ends.client).await, Code::CLOSED_CRITICAL_STREAM);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_streams_and_frames_are_passed_over() {
    let ends = ends().await;
    let serving = tokio::spawn(accept(ends.server.clone()));
    let unknown = open_uni(&ends.client, 0x21, &[1, 2, 3]).await;
    let (mut control, mut outbound, mut inbound) = ask_by_hand(&ends.client).await;
    control.write_all(&[0x21, 2, 9, 9]).await.unwrap();
    let session = soon(serving).await.unwrap().unwrap().accept().await.unwrap();
    outbound.write_all(&[0x21, 1, 9]).await.unwrap();
    let mut answer = [0; 2];
    soon(inbound.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[0], 1);
    assert!(soon(unknown.stopped()).await.unwrap().is_some());
    session.control().go_away().await.unwrap();
    assert_eq!(ends.client.close_reason(), None);
}

/// A server's session whose client is played by the test.
async fn with_played_client() -> (Ends, m2m_tunnel::session::Session, SendStream, [Box<dyn Send>; 2]) {
    let ends = ends().await;
    let serving = tokio::spawn(accept(ends.server.clone()));
    let (control, outbound, inbound) = ask_by_hand(&ends.client).await;
    let session = soon(serving).await.unwrap().unwrap().accept().await.unwrap();
    (ends, session, outbound, [Box::new(control), Box::new(inbound)])
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_capsules_end_the_tunnel() {
    let cases: [(&str, &[u8], Code); 5] = [
        ("version 5", &[0, 9, 1, 7, 0, 5, 10, 0, 0, 1, 32], Code::MESSAGE_ERROR),
        ("no address wished for", &[0, 2, 2, 0], Code::MESSAGE_ERROR),
        ("range backwards", &[0, 12, 3, 10, 4, 9, 0, 0, 0, 8, 0, 0, 0, 0], Code::MESSAGE_ERROR),
        ("huge capsule", &[0, 5, 1, 0xa0, 0, 0, 0], Code::EXCESSIVE_LOAD),
        ("settings on a request", &[4, 0], Code::FRAME_UNEXPECTED),
    ];
    for (name, bytes, code) in cases {
        let (ends, mut session, mut outbound, _open) = with_played_client().await;
        outbound.write_all(bytes).await.unwrap();
        assert_eq!(told(&ends.client).await, code, "{name}");
        let Event::Closed(CloseReason::Protocol { code: seen, .. }) = event(&mut session).await else {
            panic!("{name}: not a protocol error");
        };
        assert_eq!(seen, code, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_stream_is_the_end_of_the_tunnel() {
    let (_ends, mut session, mut outbound, _open) = with_played_client().await;
    outbound.finish().unwrap();
    assert_eq!(event(&mut session).await, Event::Closed(CloseReason::Ended));

    let (ends, mut session, mut outbound, _open) = with_played_client().await;
    outbound.write_all(&[0, 2, 1, 7]).await.unwrap();
    outbound.finish().unwrap();
    assert_eq!(told(&ends.client).await, Code::MESSAGE_ERROR);
    assert!(matches!(event(&mut session).await, Event::Closed(CloseReason::Protocol { .. })));

    let (_ends, mut session, mut outbound, _open) = with_played_client().await;
    outbound.reset(0x10c_u32.into()).unwrap();
    let expected = CloseReason::Peer { code: Code::REQUEST_CANCELLED, reason: String::new() };
    assert_eq!(event(&mut session).await, Event::Closed(expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_without_a_stream_end_the_tunnel_and_strange_ones_do_not() {
    let (ends, session, _outbound, _open) = with_played_client().await;
    let packets = session.packets();
    // Another stream, another context, no context, and at last a packet
    for datagram in [&[1, 0, 0x45][..], &[0, 2, 0x45], &[0], &[0, 0, 0x46]] {
        ends.client.send_datagram(bytes::Bytes::copy_from_slice(datagram)).unwrap();
    }
    let mut received = Vec::new();
    soon(packets.recv_batch(&mut received)).await.unwrap();
    assert_eq!(received, [[0x46][..].to_vec()]);

    ends.client.send_datagram(bytes::Bytes::from_static(&[0x40])).unwrap();
    assert!(soon(packets.recv_batch(&mut received)).await.is_err());
    assert_eq!(told(&ends.client).await, Code::DATAGRAM_ERROR);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_request_is_not_processed() {
    let (ends, session, _outbound, _open) = with_played_client().await;
    let (_second, mut inbound) = {
        let (mut outbound, inbound) = ends.client.open_bi().await.unwrap();
        outbound.write_all(&[1, 0]).await.unwrap();
        (outbound, inbound)
    };
    let error = soon(inbound.read_to_end(100)).await.unwrap_err();
    let expected = quinn::ReadError::Reset(0x10b_u32.into());
    assert!(matches!(error, quinn::ReadToEndError::Read(error) if error == expected));
    session.control().go_away().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_does_wrong() {
    let answer = |fields: &[Field]| {
        let mut bytes = Vec::new();
        frame::write(frame::kind::HEADERS, &qpack::encode(fields), &mut bytes);
        bytes
    };
    let mut with_length = request::granted();
    with_length.fields.push(Field::new("content-length", "0"));
    let interim = Response { status: http::StatusCode::PROCESSING, fields: vec![] };
    let cases: [(&str, Vec<u8>, Code); 4] = [
        ("content first", vec![0, 1, 0], Code::FRAME_UNEXPECTED),
        ("no status", answer(&[Field::new("x", "y")]), Code::MESSAGE_ERROR),
        ("length of a tunnel", answer(&with_length.to_fields()), Code::MESSAGE_ERROR),
        (
            "content after an interim answer",
            [answer(&interim.to_fields()), vec![0, 1, 0]].concat(),
            Code::FRAME_UNEXPECTED,
        ),
    ];
    for (name, bytes, code) in cases {
        let ends = ends().await;
        let _control = open_control(&ends.server, &settings(true)).await;
        let connecting = tokio::spawn(connect(ends.client.clone(), ConnectRequest::new(AUTHORITY)));
        let (mut outbound, _inbound) = soon(ends.server.accept_bi()).await.unwrap();
        outbound.write_all(&bytes).await.unwrap();
        assert_eq!(told(&ends.server).await, code, "{name}");
        let error = soon(connecting).await.unwrap().unwrap_err();
        assert!(
            matches!(&error, ConnectError::Closed(CloseReason::Protocol { code: seen, .. }) if *seen == code),
            "{name}: {error}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interim_answer_is_not_the_answer() {
    let ends = ends().await;
    let _control = open_control(&ends.server, &settings(true)).await;
    let connecting = tokio::spawn(connect(ends.client.clone(), ConnectRequest::new(AUTHORITY)));
    let (mut outbound, _inbound) = soon(ends.server.accept_bi()).await.unwrap();
    for status in [http::StatusCode::PROCESSING, http::StatusCode::OK] {
        let response = Response { status, fields: vec![] };
        let mut bytes = Vec::new();
        frame::write(frame::kind::HEADERS, &qpack::encode(&response.to_fields()), &mut bytes);
        outbound.write_all(&bytes).await.unwrap();
    }
    soon(connecting).await.unwrap().unwrap();
}
