//! Who does not get a tunnel, and what it is told.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{client::SendRequest, server};
use http::{Request, Response, StatusCode};
use m2m_tunnel::{
    client::{ConnectError, ConnectRequest},
    http2,
    http3::Code,
    qpack::Field,
    request::{Refusal, Scope, Target},
    server::AcceptError,
    session::CloseReason,
};
use tokio::io::AsyncWriteExt;

use crate::ends::{AUTHORITY, UNLIMITED, connect_ip, connecting, pipe, played_client, played_server, soon};

/// Sends a request without content and reads the whole answer.
async fn exchange(requests: &mut SendRequest<Bytes>, request: Request<()>) -> (Response<()>, String) {
    let (response, _outbound) = requests.send_request(request, false).unwrap();
    let (parts, mut inbound) = soon(response).await.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(piece) = soon(inbound.data()).await {
        text.extend_from_slice(&piece.unwrap());
    }
    (Response::from_parts(parts, ()), String::from_utf8(text).unwrap())
}

#[tokio::test]
async fn a_refusal_brings_its_reason() {
    let (near, far) = pipe();
    let serving = async {
        let incoming = http2::accept(far, Arc::default()).await.unwrap();
        assert_eq!(incoming.authority(), AUTHORITY);
        assert_eq!(incoming.request().path, UNLIMITED);
        assert_eq!(incoming.scope(), &Scope::default());
        assert_eq!(incoming.request().fields, [Field::new("capsule-protocol", "?1")]);
        incoming.reject(&Refusal::new(StatusCode::FORBIDDEN, "this device is not known here")).await;
    };
    let (outcome, ()) =
        soon(async { tokio::join!(http2::connect(near, ConnectRequest::new(AUTHORITY)), serving) }).await;
    let expected =
        ConnectError::Refused { status: StatusCode::FORBIDDEN, reason: "this device is not known here".into() };
    assert_eq!(outcome.unwrap_err(), expected);
}

#[tokio::test]
async fn other_requests_get_their_status_and_a_tunnel_still_comes() {
    let (near, far) = pipe();
    let serving = tokio::spawn(http2::accept(far, Arc::default()));
    let (mut requests, _connection) = played_client(near).await;
    let plain = |method: &str| Request::builder().method(method).uri(format!("https://{AUTHORITY}/")).body(()).unwrap();
    let (response, text) = exchange(&mut requests, plain("GET")).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(response.headers()["content-length"], text.len().to_string());
    assert!(!text.is_empty());
    let (response, text) = exchange(&mut requests, plain("HEAD")).await;
    assert_eq!((response.status(), text.len()), (StatusCode::NOT_FOUND, 0));
    assert_eq!(exchange(&mut requests, plain("POST")).await.0.status(), StatusCode::NOT_IMPLEMENTED);

    let tcp = Request::builder().method("CONNECT").uri("host.example:22").body(()).unwrap();
    assert_eq!(exchange(&mut requests, tcp).await.0.status(), StatusCode::NOT_IMPLEMENTED);
    let mut udp = connect_ip(UNLIMITED);
    udp.extensions_mut().insert(h2::ext::Protocol::from_static("connect-udp"));
    assert_eq!(exchange(&mut requests, udp).await.0.status(), StatusCode::NOT_IMPLEMENTED);
    let (response, text) = exchange(&mut requests, connect_ip("/.well-known/masque/ip/*/256/")).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(text.contains("ipproto"), "{text}");
    assert_eq!(exchange(&mut requests, connect_ip("/elsewhere")).await.0.status(), StatusCode::NOT_FOUND);

    let (response, _outbound) =
        requests.send_request(connect_ip("/.well-known/masque/ip/192.0.2.0%2F24/17/"), false).unwrap();
    let incoming = soon(serving).await.unwrap().unwrap();
    let scope = Scope { target: Target::Prefix("192.0.2.0/24".parse().unwrap()), ip_protocol: Some(17) };
    assert_eq!(incoming.scope(), &scope);
    let _tunnel = incoming.accept().await.unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["capsule-protocol"], "?1");
}

#[tokio::test]
async fn header_fields_have_a_limit() {
    let (near, far) = pipe();
    let serving = tokio::spawn(http2::accept(far, Arc::default()));
    let (mut requests, _connection) = played_client(near).await;
    let mut request = connect_ip(UNLIMITED);
    request.headers_mut().insert("x", "y".repeat(17 * 1024).parse().unwrap());
    let (response, _outbound) = requests.send_request(request, false).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert!(!serving.is_finished());
}

#[tokio::test]
async fn a_server_without_extended_connect_is_recognized() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let mut connection = soon(server::handshake(far)).await.unwrap();
    let serving = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let error = soon(connecting).await.unwrap().unwrap_err();
    assert_eq!(error, ConnectError::Unsupported { missing: "ENABLE_CONNECT_PROTOCOL" });
    soon(serving).await.unwrap();
}

#[tokio::test]
async fn silence_ends_in_time() {
    let (near, _far) = pipe();
    let request = ConnectRequest { timeout: Duration::from_millis(100), ..ConnectRequest::new(AUTHORITY) };
    assert_eq!(soon(http2::connect(near, request.clone())).await.unwrap_err(), ConnectError::TimedOut);

    // A server that is there and never answers
    let (near, far) = pipe();
    let connecting = tokio::spawn(http2::connect(near, request));
    let _played = played_server(far).await;
    assert_eq!(soon(connecting).await.unwrap().unwrap_err(), ConnectError::TimedOut);
}

#[tokio::test]
async fn a_server_that_leaves_is_not_waited_for() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let mut connection =
        soon(server::Builder::new().enable_connect_protocol().handshake::<_, Bytes>(far)).await.unwrap();
    let exchange = soon(connection.accept()).await.unwrap().unwrap();
    connection.abrupt_shutdown(h2::Reason::ENHANCE_YOUR_CALM);
    let _ = soon(std::future::poll_fn(|cx| connection.poll_closed(cx))).await;
    drop(exchange);
    let error = soon(connecting).await.unwrap().unwrap_err();
    let code = Code::EXCESSIVE_LOAD;
    assert_eq!(error, ConnectError::Closed(CloseReason::Peer { code, reason: String::new() }));
}

#[tokio::test]
async fn a_reset_request_says_why() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let ((_request, mut respond), _connection) = played_server(far).await;
    respond.send_reset(h2::Reason::REFUSED_STREAM);
    let error = soon(connecting).await.unwrap().unwrap_err();
    let code = Code::REQUEST_REJECTED;
    assert_eq!(error, ConnectError::Closed(CloseReason::Peer { code, reason: String::new() }));
}

#[tokio::test]
async fn a_connection_that_breaks_ends_the_waiting_on_both_sides() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let (exchange, connection) = played_server(far).await;
    connection.abort();
    drop(exchange);
    let error = soon(connecting).await.unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::Closed(CloseReason::Transport(_))), "{error}");

    let (near, far) = pipe();
    let serving = tokio::spawn(http2::accept(far, Arc::default()));
    let (requests, connection) = played_client(near).await;
    drop(requests);
    soon(connection).await.unwrap().unwrap();
    let error = soon(serving).await.unwrap().unwrap_err();
    assert!(matches!(error, AcceptError::Closed(_)), "{error}");
}

#[tokio::test]
async fn a_client_that_gives_up_frees_the_gateway() {
    let (near, far) = pipe();
    let serving = tokio::spawn(http2::accept(far, Arc::default()));
    let (mut requests, _connection) = played_client(near).await;
    let (response, mut outbound) = requests.send_request(connect_ip(UNLIMITED), false).unwrap();
    let incoming = soon(serving).await.unwrap().unwrap();
    outbound.send_reset(h2::Reason::CANCEL);
    drop((response, outbound, requests));
    let outcome = soon(async {
        match incoming.accept().await {
            // The reset may come behind the answer.
            Ok(tunnel) => tunnel.control.closed().await,
            Err(AcceptError::Closed(reason)) => reason,
            Err(other) => panic!("{other}"),
        }
    })
    .await;
    assert!(matches!(outcome, CloseReason::Peer { .. } | CloseReason::Transport(_)), "{outcome}");
}

#[tokio::test]
async fn what_speaks_another_protocol_is_no_gateway_and_no_device() {
    for text in ["HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"] {
        let (near, mut far) = pipe();
        let connecting = connecting(near);
        far.write_all(text.as_bytes()).await.unwrap();
        let error = soon(connecting).await.unwrap().unwrap_err();
        assert!(matches!(error, ConnectError::Closed(CloseReason::Protocol { .. })), "{error}");

        let (mut near, far) = pipe();
        near.write_all(text.as_bytes()).await.unwrap();
        let error = soon(http2::accept(far, Arc::default())).await.unwrap_err();
        assert!(matches!(error, AcceptError::Closed(CloseReason::Protocol { .. })), "{error}");
    }
}

#[tokio::test]
async fn only_a_plain_success_begins_a_tunnel() {
    let cases: [(u16, &[(&str, &str)]); 3] =
        [(204, &[]), (200, &[("content-length", "0")]), (200, &[("content-type", "text/html")])];
    for (status, fields) in cases {
        let (near, far) = pipe();
        let connecting = connecting(near);
        let ((_request, mut respond), _connection) = played_server(far).await;
        let mut response = Response::builder().status(status);
        for (name, value) in fields {
            response = response.header(*name, *value);
        }
        let _outbound = respond.send_response(response.body(()).unwrap(), false).unwrap();
        let error = soon(connecting).await.unwrap().unwrap_err();
        let ConnectError::Closed(CloseReason::Protocol { code, .. }) = error else {
            panic!("{status} {fields:?}: {error}");
        };
        assert_eq!(code, Code::MESSAGE_ERROR);
    }
}

#[tokio::test]
async fn an_interim_answer_is_not_the_answer() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let ((request, mut respond), _connection) = played_server(far).await;
    assert_eq!(request.method(), "CONNECT");
    assert_eq!(request.extensions().get::<h2::ext::Protocol>().unwrap().as_str(), "connect-ip");
    assert_eq!(request.uri(), &*format!("https://{AUTHORITY}{UNLIMITED}"));
    assert_eq!(request.headers()["capsule-protocol"], "?1");
    respond.send_informational(Response::builder().status(103).body(()).unwrap()).unwrap();
    let _outbound = respond.send_response(Response::new(()), false).unwrap();
    soon(connecting).await.unwrap().unwrap();
}

#[tokio::test]
async fn an_endless_refusal_is_cut() {
    let (near, far) = pipe();
    let connecting = connecting(near);
    let ((_request, mut respond), _connection) = played_server(far).await;
    let refusal = Response::builder().status(401).body(()).unwrap();
    let mut outbound = respond.send_response(refusal, false).unwrap();
    let endless = tokio::spawn(async move {
        while outbound.send_data("no\u{1b}[31m ".repeat(100).into(), false).is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let ConnectError::Refused { status, reason } = soon(connecting).await.unwrap().unwrap_err() else {
        panic!("not refused");
    };
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(reason.starts_with("no[31m no") && reason.len() <= 256, "{reason}");
    soon(endless).await.unwrap();
}
