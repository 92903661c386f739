//! Tunnels that are confined to a target and an IP protocol (RFC 9484 section 4.6), at a gateway with a URI template of its own.

use std::{io, net::UdpSocket};

use m2m_lab::Node;
use m2m_lab::addresses::INTRANET_V4;
use serde_json::{Value, json};

use crate::{
    flow::{CLIENT_V4, Flow, Protocol, address_assign, address_request},
    stage::{LIMIT, Stage},
};

/// Bytes that a connection carries each way.
const BYTES: usize = 1 << 20;
const TCP: u8 = 6;

/// A confined tunnel carries what it was asked for and nothing else.
pub(crate) fn is_kept(protocol: Protocol) {
    let stage = Stage::set(protocol);
    let mut gateway = stage.start_gateway_with(Flow::SplitTunnel, "uri_template = \"/vpn{?target,ipproto}\"\n");
    let mut client = stage.start_client_at("confined", &format!("/vpn?target={INTRANET_V4}&ipproto={TCP}"));
    stage.transfer_v4(BYTES);
    let (device, company) = stage.nodes();
    assert_prohibited(device, &format!("{INTRANET_V4}:9"));
    assert_prohibited(company, &format!("{CLIENT_V4}:9"));
    client.stop();
    gateway.wait_for_end_of_session();

    let journal = client.journal;
    assert_eq!(journal.responses("received"), [protocol.granted_by_gateway()]);
    assert_eq!(journal.capsules("sent"), [address_request()]);
    let only = json!({ "start": INTRANET_V4, "end": INTRANET_V4, "protocol": TCP });
    let routes = json!({ "type": "ROUTE_ADVERTISEMENT", "ranges": [only] });
    assert_eq!(journal.capsules("received"), [address_assign(0, 0), routes, address_assign(1, 2)]);

    // A label of 64 characters: no name server is needed to know that it has no address (RFC 1035 section 2.3.4).
    let no_name = format!("/vpn?target={}.invalid", "a".repeat(64));
    for (number, (path, status, proxy_status)) in [
        ("/vpn?target=192.0.2.0%2F24", "403", Some("destination_ip_prohibited")),
        (no_name.as_str(), "502", Some("dns_error")),
        ("/vpn?target=10.20.0.1%2F24", "400", None),
        ("/vpn?ipproto=256", "400", None),
        ("/vpn?ipproto=0", "400", None),
        ("/vpn?protocol=6", "400", None),
        ("/.well-known/masque/ip/*/*/", "404", None),
    ]
    .into_iter()
    .enumerate()
    {
        let journal = stage.refused_client(&format!("refused-{number}"), path);
        let responses = journal.responses("received");
        let has = |name: &str, value: &str| responses[0].as_array().unwrap().contains(&json!([name, value]));
        assert!(has(":status", status), "{path}: {responses:?}");
        let names: Vec<&Value> = responses[0].as_array().unwrap().iter().map(|field| &field[0]).collect();
        assert_eq!(names.contains(&&json!("proxy-status")), proxy_status.is_some(), "{path}: {responses:?}");
        if let Some(error) = proxy_status {
            assert!(has("proxy-status", &format!("m2mvpn; error={error}")), "{path}: {responses:?}");
        }
    }
    gateway.stop();
}

/// A UDP packet to `destination` is answered with ICMP: communication administratively prohibited.
fn assert_prohibited(from: &Node, destination: &str) {
    let outcome = from.within(|| -> io::Result<usize> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect(destination)?;
        socket.send(b"anybody?")?;
        socket.recv(&mut [0; 16])
    });
    let error = outcome.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::HostUnreachable, "from {} to {destination}: {error}", from.name());
}
