//! Peers that break the rules or take more than their share.

use std::sync::Arc;

use bytes::Bytes;
use h2::{Reason, server};
use m2m_tunnel::{
    capsule::{Capsule, MAX_VALUE, RequestedAddress},
    client::ConnectError,
    http2::{self, Http2Tunnel, Received},
    http3::Code,
    server::AcceptError,
    session::{CloseReason, Event},
    varint,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Duration, timeout},
};

use crate::ends::{
    UNLIMITED, WithPlayedClient, connect_ip, connecting, end, event, packets, pipe, played_client, played_server, soon,
    with_played_client,
};

/// Time in which something that is not to happen would have happened.
const A_WHILE: Duration = Duration::from_millis(200);

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

mod kind {
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const CONTINUATION: u8 = 9;
}

#[tokio::test]
async fn malformed_capsules_end_the_tunnel() {
    let mut huge = Vec::new();
    varint::write(0, &mut huge);
    varint::write(MAX_VALUE + 1, &mut huge);
    let cases: [(&str, &[u8], Code, Reason); 4] = [
        ("version 5", &[1, 7, 0, 5, 10, 0, 0, 1, 32], Code::MESSAGE_ERROR, Reason::PROTOCOL_ERROR),
        ("no address wished for", &[2, 0], Code::MESSAGE_ERROR, Reason::PROTOCOL_ERROR),
        ("range backwards", &[3, 10, 4, 9, 0, 0, 0, 8, 0, 0, 0, 0], Code::MESSAGE_ERROR, Reason::PROTOCOL_ERROR),
        ("huge capsule", &huge, Code::EXCESSIVE_LOAD, Reason::ENHANCE_YOUR_CALM),
    ];
    for (name, bytes, code, reason) in cases {
        let mut played = with_played_client().await;
        // What came before it still counts.
        let mut sent = Vec::new();
        Capsule::encode_packet(&[7], &mut sent);
        sent.extend_from_slice(bytes);
        played.outbound.send_data(sent.into(), false).unwrap();
        let Http2Tunnel { sender: _sender, mut receiver, .. } = played.tunnel;
        assert_eq!(packets(&mut receiver, 1).await, [vec![7]], "{name}");
        let CloseReason::Protocol { code: seen, .. } = end(&mut receiver).await else {
            panic!("{name}: not a protocol error");
        };
        assert_eq!(seen, code, "{name}");
        let told = soon(played.inbound.data()).await.unwrap().unwrap_err();
        assert_eq!(told.reason(), Some(reason), "{name}");
    }
}

#[tokio::test]
async fn a_malformed_capsule_of_the_server_resets_the_stream() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let ((request, mut respond), _connection) = played_server(far).await;
    let mut outbound = respond.send_response(http::Response::new(()), false).unwrap();
    let Http2Tunnel { sender: _sender, mut receiver, .. } = soon(connecting).await.unwrap().unwrap();
    outbound.send_data(Bytes::from_static(&[2, 0]), false).unwrap();
    assert!(matches!(end(&mut receiver).await, CloseReason::Protocol { code: Code::MESSAGE_ERROR, .. }));
    let told = soon(request.into_body().data()).await.unwrap().unwrap_err();
    assert!(told.is_reset());
    assert_eq!(told.reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn a_server_that_shuts_down_says_why() {
    for (why, code) in [(Reason::ENHANCE_YOUR_CALM, Code::EXCESSIVE_LOAD), (Reason::NO_ERROR, Code::NO_ERROR)] {
        let (near, far) = pipe();
        let connecting = connecting(near);
        let mut connection =
            soon(server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(far)).await.unwrap();
        let (_request, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
        let _outbound = respond.send_response(http::Response::new(()), false).unwrap();
        let serving = tokio::spawn(async move {
            connection.abrupt_shutdown(why);
            while connection.accept().await.is_some() {}
        });
        // The answer and GOAWAY may come at once, and the connection's end with them.
        let reason = match soon(connecting).await.unwrap() {
            Ok(Http2Tunnel { sender: _sender, mut receiver, .. }) => {
                let mut batch = Vec::new();
                loop {
                    match soon(receiver.recv(&mut batch)).await {
                        Ok(received) => assert_eq!(received, Received::Event(Event::GoAway)),
                        Err(reason) => break reason,
                    }
                }
            }
            Err(ConnectError::Closed(reason)) => reason,
            Err(other) => panic!("{other}"),
        };
        assert_eq!(reason, CloseReason::Peer { code, reason: String::new() });
        soon(serving).await.unwrap();
    }
}

#[tokio::test]
async fn the_end_of_the_stream_is_the_end_of_the_tunnel() {
    let mut played = with_played_client().await;
    played.outbound.send_data(Bytes::new(), true).unwrap();
    let Http2Tunnel { sender: _sender, mut receiver, .. } = played.tunnel;
    assert_eq!(end(&mut receiver).await, CloseReason::Ended);
    soon(played.connection).await.unwrap().unwrap();

    let mut played = with_played_client().await;
    played.outbound.send_data(Bytes::from_static(&[1, 7]), true).unwrap();
    let Http2Tunnel { sender: _sender, mut receiver, .. } = played.tunnel;
    assert!(matches!(end(&mut receiver).await, CloseReason::Protocol { code: Code::MESSAGE_ERROR, .. }));

    let mut played = with_played_client().await;
    played.outbound.send_reset(Reason::CANCEL);
    let Http2Tunnel { sender: _sender, mut receiver, .. } = played.tunnel;
    let expected = CloseReason::Peer { code: Code::REQUEST_CANCELLED, reason: String::new() };
    assert_eq!(end(&mut receiver).await, expected);

    // The connection goes without a word.
    let played = with_played_client().await;
    played.connection.abort();
    let Http2Tunnel { sender: _sender, mut receiver, .. } = played.tunnel;
    let reason = end(&mut receiver).await;
    assert!(matches!(reason, CloseReason::Transport(_)), "{reason}");
}

#[tokio::test]
async fn a_flood_of_capsules_nobody_takes_is_stopped_by_the_window() {
    let WithPlayedClient { tunnel, mut outbound, .. } = with_played_client().await;
    let Http2Tunnel { sender: _sender, mut receiver, mut pinger, .. } = tunnel;
    soon(pinger.ping()).await.unwrap();
    let wish = RequestedAddress { request_id: 1, prefix: "0.0.0.0/0".parse().unwrap() };
    let mut capsule = Vec::new();
    Capsule::AddressRequest(vec![wish]).encode(&mut capsule);
    let flood = Bytes::from(capsule.repeat(1000));
    let mut sent = 0;
    loop {
        outbound.reserve_capacity(flood.len());
        let room = std::future::poll_fn(|cx| outbound.poll_capacity(cx));
        let Ok(room) = timeout(A_WHILE, room).await else {
            break;
        };
        let room = room.unwrap().unwrap().min(flood.len());
        outbound.send_data(flood.slice(..room), false).unwrap();
        sent += room;
    }
    assert_eq!(sent, 6 * 1024 * 1024);
    for _ in 0..1000 {
        assert_eq!(event(&mut receiver).await, Event::AddressesRequested(vec![wish]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_noise_does_not_hold_up_other_work() {
    let WithPlayedClient { tunnel, mut outbound, .. } = with_played_client().await;
    let Http2Tunnel { sender: _sender, mut receiver, .. } = tunnel;
    let noise = Bytes::from([0x17, 2, 0, 0].repeat(4000));
    let flood = tokio::spawn(async move {
        loop {
            outbound.reserve_capacity(noise.len());
            let Some(Ok(room)) = std::future::poll_fn(|cx| outbound.poll_capacity(cx)).await else { return };
            if outbound.send_data(noise.slice(..room.min(noise.len()) / 4 * 4), false).is_err() {
                return;
            }
        }
    });
    let mut batch = Vec::new();
    assert!(timeout(A_WHILE, receiver.recv(&mut batch)).await.is_err());
    assert!(!flood.is_finished());
    drop(receiver);
    soon(flood).await.unwrap();
}

#[tokio::test]
async fn a_flood_of_tiny_frames_is_bounded_and_an_honest_one_is_not_stopped() {
    let mut played = with_played_client().await;
    let Http2Tunnel { sender: _sender, mut receiver, control, mut pinger } = played.tunnel;
    soon(pinger.ping()).await.unwrap();
    let mut packet = Vec::new();
    Capsule::encode_packet(&[0x45; 40], &mut packet);
    let packet = Bytes::from(packet);
    for _ in 0..100 {
        for _ in 0..1000 {
            played.outbound.send_data(packet.clone(), false).unwrap();
        }
        packets(&mut receiver, 1000).await;
    }
    // Nobody takes these.
    for _ in 0..100_000 {
        if played.outbound.send_data(Bytes::from_static(&[0x17]), false).is_err() {
            break;
        }
    }
    let reason = soon(control.closed()).await;
    assert!(matches!(reason, CloseReason::Protocol { code: Code::EXCESSIVE_LOAD, .. }), "{reason}");
}

#[tokio::test]
async fn requests_beside_the_tunnel_are_refused_and_too_many_end_it() {
    let mut played = with_played_client().await;
    let Http2Tunnel { sender: _sender, mut receiver, mut pinger, .. } = played.tunnel;
    for _ in 0..32 {
        let (response, _outbound) = played.requests.send_request(connect_ip(UNLIMITED), false).unwrap();
        let error = soon(response).await.unwrap_err();
        assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
    }
    soon(pinger.ping()).await.unwrap();
    let (_response, _outbound) = played.requests.send_request(connect_ip(UNLIMITED), false).unwrap();
    assert!(matches!(end(&mut receiver).await, CloseReason::Protocol { code: Code::EXCESSIVE_LOAD, .. }));
    let told = soon(played.connection).await.unwrap().unwrap_err();
    assert_eq!(told.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn requests_that_are_reset_at_once_end_the_connection() {
    let (near, far) = pipe();
    let serving = tokio::spawn(http2::accept(far, Arc::default()));
    let (mut requests, connection) = played_client(near).await;
    soon(async {
        loop {
            let get = http::Request::get("https://gateway.example/").body(()).unwrap();
            let Ok((_response, mut outbound)) = requests.send_request(get, false) else { return };
            // The request has to be on its way before the reset.
            tokio::task::yield_now().await;
            outbound.send_reset(Reason::CANCEL);
            let Ok(ready) = requests.clone().ready().await else { return };
            requests = ready;
        }
    })
    .await;
    let error = soon(serving).await.unwrap().unwrap_err();
    let AcceptError::Closed(CloseReason::Protocol { code, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(code, Code::EXCESSIVE_LOAD);
    let told = soon(connection).await.unwrap().unwrap_err();
    assert_eq!(told.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn header_fields_without_an_end_end_the_connection() {
    let (mut near, far) = pipe();
    let serving = tokio::spawn(http2::accept(far, Arc::default()));
    near.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    near.write_all(&frame(kind::HEADERS, 0, 1, &[])).await.unwrap();
    // Literal fields of 100 bytes, never the end of the section
    let mut field = vec![0, 1, b'x', 98];
    field.extend([b'y'; 98]);
    let continuation = frame(kind::CONTINUATION, 0, 1, &field.repeat(10));
    let mut sent = 0;
    soon(async {
        while near.write_all(&continuation).await.is_ok() {
            sent += continuation.len();
        }
    })
    .await;
    assert!(sent < 100_000, "{sent} bytes");
    let error = soon(serving).await.unwrap().unwrap_err();
    assert!(matches!(error, AcceptError::Closed(CloseReason::Protocol { .. })), "{error}");
}

#[tokio::test]
async fn whoever_pings_without_reading_is_not_read_any_more() {
    let (mut near, far) = tokio::io::duplex(4096);
    let _serving = tokio::spawn(http2::accept(far, Arc::default()));
    near.write_all(&[PREFACE, &frame(kind::SETTINGS, 0, 0, &[])].concat()).await.unwrap();
    let pings = frame(kind::PING, 0, 0, &[1; 8]).repeat(10);
    let mut sent = 0;
    // A write that is given up may have written nothing, or whole frames and a part of one.
    while let Ok(written) = timeout(A_WHILE, near.write(&pings[sent % pings.len()..])).await {
        sent += written.unwrap();
        assert!(sent < 1_000_000, "the answers pile up");
    }
    // Once it reads, it is served again.
    let (mut near_in, mut near_out) = tokio::io::split(near);
    let reading = tokio::spawn(async move {
        let mut answers = vec![0; 4096];
        while near_in.read(&mut answers).await.is_ok_and(|count| count > 0) {}
    });
    soon(near_out.write_all(&pings[sent % pings.len()..])).await.unwrap();
    for _ in 0..1000 {
        soon(near_out.write_all(&pings)).await.unwrap();
    }
    reading.abort();
}

#[tokio::test]
async fn an_honest_batch_behind_a_dishonest_one_is_not_reached() {
    let mut played = with_played_client().await;
    let Http2Tunnel { sender: _sender, mut receiver, .. } = played.tunnel;
    played.outbound.send_data(Bytes::from_static(&[2, 0]), false).unwrap();
    let mut honest = Vec::new();
    Capsule::encode_packet(&[1, 2, 3], &mut honest);
    let _ = played.outbound.send_data(honest.into(), false);
    let mut batch = Vec::new();
    let outcome = soon(receiver.recv(&mut batch)).await;
    assert!(matches!(outcome, Err(CloseReason::Protocol { .. })), "{outcome:?}");
    assert_eq!((batch.len(), matches!(soon(receiver.recv(&mut batch)).await, Ok(Received::Packets(_)))), (0, false));
}
