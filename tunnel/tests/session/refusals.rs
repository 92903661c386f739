//! Who does not get a tunnel, and what it is told.

use std::time::Duration;

use http::StatusCode;
use m2m_tunnel::{
    client::ConnectRequest,
    http3::{
        Code,
        message::{Request, Response},
        settings::Settings,
        stream::{RequestEvent, RequestStream},
    },
    qpack::{self, Field},
    request,
    request::Refusal,
    session::{CloseReason, Event},
};

use crate::{
    certified::AUTHORITY,
    played::{headers, settings},
    world::{Side, World},
};

const SECOND: Duration = Duration::from_secs(1);

/// Sends a request of a played client and reads the whole answer.
fn exchange(world: &mut World, request: &Request) -> (Response, String) {
    let stream = world.client.played().open_request(&headers(&request.to_fields()));
    world.run_until(SECOND, |world| world.client.played().is_finished(stream));
    let played = world.client.played();
    // The answer came before the end of the request: the peer asked for no more of it.
    played.reset(stream, Code::NO_ERROR);
    assert!(played.is_finished(stream), "no whole answer to {} {}", request.method, request.path);
    let mut parser = RequestStream::new(true);
    parser.push(played.content(stream));
    let Some(RequestEvent::Headers(section)) = parser.next_event().unwrap() else { panic!("no fields") };
    let mut text = Vec::new();
    while let Some(RequestEvent::Data(piece)) = parser.next_event().unwrap() {
        text.extend_from_slice(&piece);
    }
    parser.finish().unwrap();
    let response = Response::from_fields(qpack::decode(&section).unwrap()).unwrap();
    (response, String::from_utf8(text).unwrap())
}

/// A world whose client is played, and has said what it is.
fn with_played_client(settings: &Settings) -> World {
    let mut world = World::played(Side::Client);
    world.client.played().open_control(settings);
    world
}

#[test]
fn a_refusal_brings_its_reason() {
    let mut world = World::new(1);
    world.accepts = false;
    world.run_until(SECOND, |world| world.server.events.iter().any(|event| matches!(event, Event::Requested(..))));
    let now = world.now;
    world.server.session().reject(&Refusal::new(StatusCode::FORBIDDEN, "this device is not known here"), now);
    world.run(SECOND);
    let refused = Event::Refused { status: StatusCode::FORBIDDEN, reason: "this device is not known here".to_owned() };
    assert!(world.client.take(|event| *event == refused).is_some(), "{:?}", world.client.events);
    assert!(world.client.take(|event| matches!(event, Event::Closed(_))).is_some());
    assert!(world.server.take(|event| matches!(event, Event::Closed(_))).is_some());
    world.run(10 * SECOND);
    assert!(world.client.session().is_drained() && world.server.session().is_drained());
}

#[test]
fn other_requests_get_their_status_and_a_tunnel_still_comes() {
    let mut world = with_played_client(&settings(false));
    let get = Request {
        method: "GET".into(),
        scheme: "https".into(),
        authority: AUTHORITY.into(),
        path: "/".into(),
        protocol: None,
        fields: vec![],
    };
    let tunnel = request::unlimited(AUTHORITY);
    let cases = [
        ("page", get.clone(), StatusCode::NOT_FOUND, Some("")),
        ("head of a page", Request { method: "HEAD".into(), ..get }, StatusCode::NOT_FOUND, None),
        (
            "UDP",
            Request { protocol: Some("connect-udp".into()), ..tunnel.clone() },
            StatusCode::NOT_IMPLEMENTED,
            Some(""),
        ),
        (
            "protocol that is none",
            Request { path: "/.well-known/masque/ip/*/999/".into(), ..tunnel.clone() },
            StatusCode::BAD_REQUEST,
            Some(""),
        ),
    ];
    for (name, request, status, words) in cases {
        let (response, text) = exchange(&mut world, &request);
        assert_eq!(response.status, status, "{name}");
        assert!(response.fields.contains(&Field::new("content-length", &text.len().to_string())), "{name}");
        assert_eq!(words.is_some(), !text.is_empty(), "{name}");
        assert!(text.contains(words.unwrap_or_default()), "{name}: {text}");
        assert!(!world.server.is_open(), "{name}");
    }
    world.client.played().open_request(&headers(&tunnel.to_fields()));
    world.run(SECOND);
    assert!(world.server.is_open());
    assert_eq!(world.client.played().told(), None);
}

#[test]
fn a_client_without_datagrams_is_refused() {
    let mut world = with_played_client(&Settings::default());
    let (response, text) = exchange(&mut world, &request::unlimited(AUTHORITY));
    assert_eq!(response.status, StatusCode::BAD_REQUEST);
    assert!(text.contains("datagrams"), "{text}");
    world.run(SECOND);
    assert!(!world.server.is_open());
    assert!(world.server.take(|event| matches!(event, Event::Requested(..))).is_none(), "nothing to decide");
    assert!(world.server.take(|event| *event == Event::Closed(CloseReason::Local)).is_some());
}

#[test]
fn a_server_without_tunnels_is_left() {
    for (settings, missing) in [
        (Settings { enable_connect_protocol: true, ..Settings::default() }, "H3_DATAGRAM"),
        (Settings { h3_datagram: true, ..Settings::default() }, "ENABLE_CONNECT_PROTOCOL"),
    ] {
        let mut world = World::played(Side::Server);
        world.server.played().open_control(&settings);
        world.run(SECOND);
        assert!(world.client.take(|event| *event == Event::Unsupported { missing }).is_some(), "{missing}");
        assert!(world.client.take(|event| *event == Event::Closed(CloseReason::Local)).is_some(), "{missing}");
        assert_eq!(world.server.played().told(), Some(Code::NO_ERROR), "{missing}");
        assert!(world.server.played().requests.is_empty(), "{missing}");
    }
}

#[test]
fn a_server_that_leaves_is_not_waited_for() {
    let mut world = World::played(Side::Server);
    let control = world.server.played().open_control(&settings(true));
    world.server.played().write(control, &[7, 1, 0]);
    let took =
        world.run_until(SECOND, |world| world.client.events.iter().any(|event| matches!(event, Event::Closed(_))));
    assert!(took < SECOND);
    let closed = world.client.take(|event| matches!(event, Event::Closed(_))).unwrap();
    assert!(matches!(closed, Event::Closed(CloseReason::Peer { code: Code::REQUEST_REJECTED, .. })), "{closed:?}");
}

#[test]
fn a_client_does_not_wait_for_ever() {
    let request = ConnectRequest { timeout: 3 * SECOND, ..ConnectRequest::new(AUTHORITY) };
    let mut world = World::between(1, request, Some(Side::Server));
    world.run(4 * SECOND);
    assert_eq!(
        world.client.take(|event| matches!(event, Event::Closed(_))),
        Some(Event::Closed(CloseReason::TimedOut))
    );
    assert_eq!(world.server.played().told(), Some(Code::REQUEST_CANCELLED));
}

#[test]
fn a_server_does_not_wait_for_ever() {
    let mut world = with_played_client(&settings(false));
    world.run(11 * SECOND);
    assert_eq!(
        world.server.take(|event| matches!(event, Event::Closed(_))),
        Some(Event::Closed(CloseReason::TimedOut))
    );
    assert_eq!(world.client.played().told(), Some(Code::REQUEST_INCOMPLETE));
}
