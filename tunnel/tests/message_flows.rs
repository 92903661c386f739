//! The message flows of RFC 9484 §8: what each side writes is what the other one reads.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use bytes::Bytes;
use http::StatusCode;
use m2m_tunnel::{
    capsule::{AssignedAddress, Capsule, CapsuleReader, RequestedAddress},
    http3::{
        datagram::{self, Datagram, IP_CONTEXT},
        frame::{self, kind},
        message::{Request, Response},
        settings::Settings,
        stream::{ControlEvent, ControlStream, RequestEvent, RequestStream},
    },
    qpack::{self, Field},
    request,
    routes::IpRange,
    scope::{Scope, Target},
    template::Template,
};

/// The stream of every flow in RFC 9484 §8.
const STREAM: u64 = 44;

#[test]
fn full_tunnel_vpn() {
    let mut sides = Sides::meet("https://proxy.example.com/vpn", &Scope::default(), "/vpn");
    sides.client_says(&[Capsule::AddressRequest(vec![RequestedAddress {
        request_id: 1,
        prefix: "0.0.0.0/32".parse().unwrap(),
    }])]);
    sides.proxy_says(&[
        Capsule::AddressAssign(vec![assigned(1, "192.0.2.11/32")]),
        Capsule::RouteAdvertisement(vec![range("0.0.0.0", "255.255.255.255", 0)]),
    ]);
    assert_eq!(IpRange::from_prefix("0.0.0.0/0".parse().unwrap()), range("0.0.0.0", "255.255.255.255", 0));
}

#[test]
fn split_tunnel_vpn() {
    let mut sides = Sides::meet("https://proxy.example.com/vpn", &Scope::default(), "/vpn");
    sides.proxy_says(&[
        Capsule::AddressAssign(vec![assigned(0, "192.0.2.42/32")]),
        Capsule::RouteAdvertisement(vec![range("192.0.2.0", "192.0.2.41", 0), range("192.0.2.43", "192.0.2.255", 0)]),
    ]);
}

#[test]
fn site_to_site_vpn() {
    let mut sides = Sides::meet("https://proxy.example.com/corp", &Scope::default(), "/corp");
    sides.client_says(&[
        Capsule::AddressAssign(vec![assigned(0, "192.0.2.200/32")]),
        Capsule::RouteAdvertisement(vec![range("192.0.2.0", "192.0.2.255", 0)]),
    ]);
    sides.proxy_says(&[
        Capsule::AddressAssign(vec![assigned(0, "203.0.113.100/32")]),
        Capsule::RouteAdvertisement(vec![range("203.0.113.0", "203.0.113.255", 0)]),
    ]);
}

#[test]
fn ip_flow_forwarding() {
    let scope = Scope { target: Target::Name("target.example.com".into()), ip_protocol: Some(132) };
    let path = "/proxy?target=target.example.com&ipproto=132";
    let mut sides = Sides::meet("https://proxy.example.com/proxy{?target,ipproto}", &scope, path);
    sides.proxy_says(&[
        Capsule::AddressAssign(vec![assigned(0, "2001:db8:1234::a/128")]),
        Capsule::RouteAdvertisement(vec![range("2001:db8:3456::b", "2001:db8:3456::b", 132)]),
    ]);
}

#[test]
fn proxied_connection_racing() {
    let scope = Scope { target: Target::Name("target.example.com".into()), ip_protocol: Some(17) };
    let path = "/proxy?target=target.example.com&ipproto=17";
    let mut sides = Sides::meet("https://proxy.example.com/proxy?target={target}&ipproto={ipproto}", &scope, path);
    sides.proxy_says(&[
        Capsule::AddressAssign(vec![assigned(0, "192.0.2.3/32"), assigned(0, "2001:db8::1234:1234/128")]),
        Capsule::RouteAdvertisement(vec![
            range("198.51.100.2", "198.51.100.2", 17),
            range("2001:db8:3456::b", "2001:db8:3456::b", 17),
        ]),
    ]);
}

/// What both sides hear of each other after the request was granted.
struct Sides {
    from_client: Heard,
    from_proxy: Heard,
}

struct Heard {
    stream: RequestStream,
    capsules: CapsuleReader,
}

impl Sides {
    /// SETTINGS both ways, the request, its answer, and a packet each.
    fn meet(template: &str, scope: &Scope, path: &str) -> Self {
        let client = Settings { h3_datagram: true, ..Settings::default() };
        let proxy = Settings { enable_connect_protocol: true, ..client };
        for (settings, from_server) in [(client, false), (proxy, true)] {
            let mut control = ControlStream::new(from_server);
            control.push(&framed(kind::SETTINGS, &settings.encode()));
            assert_eq!(control.next_event(), Ok(Some(ControlEvent::Settings(settings))));
        }

        let template: Template = template.parse().unwrap();
        let asked = request::scoped(&template, scope).unwrap();
        let fields = [
            (":method", "CONNECT"),
            (":protocol", "connect-ip"),
            (":scheme", "https"),
            (":authority", "proxy.example.com"),
            (":path", path),
            ("capsule-protocol", "?1"),
        ];
        assert_eq!(asked.to_fields(), fields.map(|(name, value)| Field::new(name, value)));
        let mut from_client = Heard::new(false);
        let received = Request::from_fields(from_client.fields(&asked.to_fields())).unwrap();
        let matcher = template.path().matcher().unwrap();
        assert_eq!(request::scope_at(&matcher, &received), Ok(scope.clone()));

        let granted = request::granted();
        let fields = [(":status", "200"), ("capsule-protocol", "?1")];
        assert_eq!(granted.to_fields(), fields.map(|(name, value)| Field::new(name, value)));
        let mut from_proxy = Heard::new(true);
        let received = Response::from_fields(from_proxy.fields(&granted.to_fields())).unwrap();
        assert_eq!(received.status, StatusCode::OK);
        assert!(request::starts_capsules(&received));

        let mut packet = vec![];
        datagram::write_prefix(STREAM, &mut packet);
        assert_eq!(packet, [11, 0], "quarter stream id and context id");
        packet.push(0x45);
        let expected = Datagram { stream: STREAM, context: IP_CONTEXT, payload: Bytes::from_static(&[0x45]) };
        assert_eq!(datagram::read(packet.into()), Ok(Some(expected)));
        Self { from_client, from_proxy }
    }

    fn client_says(&mut self, capsules: &[Capsule]) {
        self.from_client.hears(capsules);
    }

    fn proxy_says(&mut self, capsules: &[Capsule]) {
        self.from_proxy.hears(capsules);
    }
}

impl Heard {
    fn new(from_server: bool) -> Self {
        Self { stream: RequestStream::new(from_server), capsules: CapsuleReader::default() }
    }

    fn fields(&mut self, fields: &[Field]) -> Vec<Field> {
        self.stream.push(&framed(kind::HEADERS, &qpack::encode(fields)));
        let Ok(Some(RequestEvent::Headers(section))) = self.stream.next_event() else {
            panic!("no field section");
        };
        self.stream.expect_tunnel();
        qpack::decode(&section).unwrap()
    }

    /// Each in a DATA frame of its own.
    fn hears(&mut self, capsules: &[Capsule]) {
        for capsule in capsules {
            let mut bytes = vec![];
            capsule.encode(&mut bytes);
            self.stream.push(&framed(kind::DATA, &bytes));
            let Ok(Some(RequestEvent::Data(data))) = self.stream.next_event() else {
                panic!("no data");
            };
            self.capsules.push(&data);
            assert_eq!(self.capsules.next_capsule(), Ok(Some(capsule.clone())));
        }
        assert_eq!(self.capsules.finish(), Ok(()));
        assert_eq!(self.stream.finish(), Ok(()));
    }
}

fn framed(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![];
    frame::write(kind, payload, &mut bytes);
    bytes
}

fn assigned(request_id: u64, prefix: &str) -> AssignedAddress {
    AssignedAddress { request_id, prefix: prefix.parse().unwrap() }
}

fn range(start: &str, end: &str, protocol: u8) -> IpRange {
    let [start, end] = [start, end].map(|text| text.parse::<IpAddr>().unwrap());
    IpRange::new(start, end, protocol).unwrap()
}
