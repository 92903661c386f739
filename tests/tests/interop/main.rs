//! The tunnel against an independent implementation of RFC 9484: the client and the proxy in `tests/interop/`, in Python on aioquic
//! (HTTP/3) and hyper-h2 (HTTP/2), written from the RFCs.
//!
//! Every test plays both flows of RFC 9484 section 8.1, each with TCP connections through the tunnel, and compares what they carried,
//! and what was said on the wire, to the last field.
#![allow(clippy::unwrap_used)]

mod flow;
mod journal;
mod python;
mod scope;
mod stage;
mod transfer;

use flow::{Flow, Protocol};
use stage::Stage;

/// Bytes that each connection carries each way.
const BYTES: usize = 4 << 20;

#[test]
fn over_http3_the_independent_client_and_proxy_understand_each_other() {
    independent_to_independent(Protocol::Http3);
}

#[test]
fn over_http2_the_independent_client_and_proxy_understand_each_other() {
    independent_to_independent(Protocol::Http2);
}

#[test]
fn over_http3_the_independent_client_uses_the_gateway() {
    independent_client_to_gateway(Protocol::Http3);
}

#[test]
fn over_http3_the_device_uses_the_independent_proxy() {
    device_to_independent_proxy(Protocol::Http3);
}

#[test]
fn over_http2_the_independent_client_uses_the_gateway() {
    independent_client_to_gateway(Protocol::Http2);
}

#[test]
fn over_http2_the_device_uses_the_independent_proxy() {
    device_to_independent_proxy(Protocol::Http2);
}

#[test]
fn over_http3_a_confined_tunnel_carries_what_was_asked_for() {
    scope::is_kept(Protocol::Http3);
}

#[test]
fn over_http2_a_confined_tunnel_carries_what_was_asked_for() {
    scope::is_kept(Protocol::Http2);
}

fn independent_to_independent(protocol: Protocol) {
    let stage = Stage::set(protocol);
    for flow in Flow::BOTH {
        let mut proxy = stage.start_proxy(flow);
        let mut client = stage.start_client(flow);
        stage.transfer(BYTES);
        client.stop();
        proxy.stop();

        let (client, proxy) = (client.journal, proxy.journal);
        client.assert_settings("received", protocol.proxy_settings());
        proxy.assert_settings("received", protocol.client_settings());
        assert_eq!(proxy.requests("received"), [protocol.request()]);
        assert_eq!(client.responses("received"), [flow::granted()]);
        assert_eq!(proxy.capsules("received"), [flow::address_request()]);
        assert_eq!(client.capsules("received"), flow.of_proxy());
        for journal in [&client, &proxy] {
            journal.assert_packets(protocol, BYTES);
        }
        assert_eq!(client.capsules("sent"), proxy.capsules("received"));
        assert_eq!(proxy.capsules("sent"), client.capsules("received"));
    }
}

fn independent_client_to_gateway(protocol: Protocol) {
    let stage = Stage::set(protocol);
    for flow in Flow::BOTH {
        let mut gateway = stage.start_gateway(flow);
        let mut client = stage.start_client(flow);
        stage.transfer(BYTES);
        let sessions = gateway.sessions();
        client.stop();
        gateway.wait_for_end_of_session();
        gateway.stop();

        let journal = client.journal;
        journal.assert_settings("received", protocol.proxy_settings());
        assert_eq!(journal.requests("sent"), [protocol.request()]);
        assert_eq!(journal.responses("received"), [protocol.granted_by_gateway()]);
        assert_eq!(journal.capsules("sent"), [flow::address_request()]);
        assert_eq!(journal.capsules("received"), flow.of_gateway());
        journal.assert_packets(protocol, BYTES);
        let [session] = sessions.as_slice() else { panic!("expected one session: {sessions:?}") };
        assert_eq!(session["addresses"], flow::client_addresses());
    }
}

fn device_to_independent_proxy(protocol: Protocol) {
    let stage = Stage::set(protocol);
    for flow in Flow::BOTH {
        let mut proxy = stage.start_proxy(flow);
        let mut device = stage.start_device(flow);
        stage.transfer(BYTES);
        let status = device.status();
        device.stop();
        proxy.journal.wait_for("closed");
        proxy.stop();

        let journal = proxy.journal;
        journal.assert_settings("received", protocol.client_settings());
        assert_eq!(journal.requests("received"), [protocol.request()]);
        assert_eq!(journal.capsules("received"), [flow::address_request(), flow::address_claim()]);
        assert_eq!(journal.capsules("sent"), flow.of_proxy_to_device());
        journal.assert_packets(protocol, BYTES);
        assert_eq!(status["addresses"], flow::client_prefixes());
        assert_eq!(status["routes"], flow.routes_json());
    }
}
