//! Who does not get a tunnel, and what it is told.

use http::StatusCode;
use m2m_tunnel::{
    client::{ConnectError, ConnectRequest, connect},
    http3::{
        frame,
        message::{Request, Response},
        settings::Settings,
        stream::{RequestEvent, RequestStream},
    },
    qpack::{self, Field},
    request,
    server::{AcceptError, accept},
    session::CloseReason,
};
use quinn::Connection;

use crate::loopback::{AUTHORITY, endpoints, ends, open_control, settings, soon};

/// Sends a request and reads the whole answer.
async fn exchange(connection: &Connection, request: &Request) -> (Response, Vec<u8>) {
    let (mut outbound, mut inbound) = connection.open_bi().await.unwrap();
    let mut bytes = Vec::new();
    frame::write(frame::kind::HEADERS, &qpack::encode(&request.to_fields()), &mut bytes);
    outbound.write_all(&bytes).await.unwrap();
    let answer = soon(inbound.read_to_end(10_000)).await.unwrap();
    let mut parser = RequestStream::default();
    parser.push(&answer);
    let Some(RequestEvent::Headers(section)) = parser.next_event().unwrap() else {
        panic!("no fields");
    };
    let mut text = Vec::new();
    while let Some(RequestEvent::Data(piece)) = parser.next_event().unwrap() {
        text.extend_from_slice(&piece);
    }
    parser.finish().unwrap();
    (Response::from_fields(qpack::decode(&section).unwrap()).unwrap(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_brings_its_reason() {
    let ends = ends().await;
    let serving = async {
        let incoming = accept(ends.server.clone()).await.unwrap();
        assert_eq!(incoming.authority(), AUTHORITY);
        incoming.reject(StatusCode::FORBIDDEN, "this device is not known here").await;
    };
    let connecting = connect(ends.client.clone(), ConnectRequest::new(AUTHORITY));
    let (outcome, ()) = soon(async { tokio::join!(connecting, serving) }).await;
    let expected =
        ConnectError::Refused { status: StatusCode::FORBIDDEN, reason: "this device is not known here".into() };
    assert_eq!(outcome.unwrap_err(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_get_their_status_and_a_tunnel_still_comes() {
    let ends = ends().await;
    let serving = tokio::spawn(accept(ends.server.clone()));
    let _control = open_control(&ends.client, &settings(false)).await;
    let get = Request {
        method: "GET".into(),
        scheme: "https".into(),
        authority: AUTHORITY.into(),
        path: "/".into(),
        protocol: None,
        fields: vec![],
    };
    let (response, text) = exchange(&ends.client, &get).await;
    assert_eq!(response.status, StatusCode::NOT_FOUND);
    assert!(response.fields.contains(&Field::new("content-length", &text.len().to_string())));
    assert!(!text.is_empty());

    let head = Request { method: "HEAD".into(), ..get.clone() };
    let (response, text) = exchange(&ends.client, &head).await;
    assert_eq!((response.status, text.len()), (StatusCode::NOT_FOUND, 0));

    let udp = Request { protocol: Some("connect-udp".into()), ..request::unlimited(AUTHORITY) };
    assert_eq!(exchange(&ends.client, &udp).await.0.status, StatusCode::NOT_IMPLEMENTED);

    let scoped = Request { path: "/.well-known/masque/ip/192.0.2.1/17/".into(), ..request::unlimited(AUTHORITY) };
    let (response, text) = exchange(&ends.client, &scoped).await;
    assert_eq!(response.status, StatusCode::BAD_REQUEST);
    assert!(String::from_utf8(text).unwrap().contains("target"));

    let (mut outbound, _inbound) = ends.client.open_bi().await.unwrap();
    let mut bytes = Vec::new();
    let fields = request::unlimited(AUTHORITY).to_fields();
    frame::write(frame::kind::HEADERS, &qpack::encode(&fields), &mut bytes);
    outbound.write_all(&bytes).await.unwrap();
    soon(serving).await.unwrap().unwrap().accept().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_need_datagrams() {
    let both = ends().await;
    let serving = tokio::spawn(accept(both.server.clone()));
    let _control = open_control(&both.client, &Settings::default()).await;
    let (response, _) = exchange(&both.client, &request::unlimited(AUTHORITY)).await;
    assert_eq!(response.status, StatusCode::BAD_REQUEST);
    assert_eq!(soon(serving).await.unwrap().unwrap_err(), AcceptError::Unsupported);

    for (settings, missing) in [
        (Settings { enable_connect_protocol: true, ..Settings::default() }, "H3_DATAGRAM"),
        (Settings { h3_datagram: true, ..Settings::default() }, "ENABLE_CONNECT_PROTOCOL"),
    ] {
        let ends = ends().await;
        let _control = open_control(&ends.server, &settings).await;
        let error = soon(connect(ends.client.clone(), ConnectRequest::new(AUTHORITY))).await.unwrap_err();
        assert_eq!(error, ConnectError::Unsupported { missing });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_ends_in_time() {
    let ends = ends().await;
    let request = ConnectRequest { timeout: std::time::Duration::from_millis(100), ..ConnectRequest::new(AUTHORITY) };
    assert_eq!(soon(connect(ends.client.clone(), request)).await.unwrap_err(), ConnectError::TimedOut);
    let seen: CloseReason = soon(ends.server.closed()).await.into();
    assert!(matches!(seen, CloseReason::Peer { code, .. } if code == m2m_tunnel::http3::Code::REQUEST_CANCELLED));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_leaves_is_not_waited_for() {
    let ends = ends().await;
    let mut control = open_control(&ends.server, &settings(true)).await;
    control.write_all(&[7, 1, 0]).await.unwrap();
    let error = soon(connect(ends.client.clone(), ConnectRequest::new(AUTHORITY))).await.unwrap_err();
    assert!(matches!(error, ConnectError::Closed(CloseReason::Peer { .. })), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_learns_that_it_needs_one() {
    let (client, server) = endpoints(|builder| {
        let ca = rcgen::generate_simple_self_signed(vec!["ca.example".to_owned()]).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.cert.der().clone()).unwrap();
        let provider = std::sync::Arc::clone(builder.crypto_provider());
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        builder.with_client_cert_verifier(verifier.build().unwrap())
    });
    let serving = async { server.accept().await.unwrap().await.map(drop) };
    let connecting = async {
        // The client's handshake is over before the server has seen what is missing.
        let connection = client.connect(server.local_addr().unwrap(), AUTHORITY).unwrap().await.unwrap();
        connect(connection, ConnectRequest::new(AUTHORITY)).await
    };
    let (outcome, served) = soon(async { tokio::join!(connecting, serving) }).await;
    served.unwrap_err();
    let error = outcome.unwrap_err();
    // certificate_required
    assert!(matches!(error, ConnectError::Closed(CloseReason::TlsAlert { alert: 116, .. })), "{error}");
}
