//! The message flows of RFC 9484 §8, step by step and byte by byte: each step is written as the bytes say and read from them, whole
//! and in pieces.
//!
//! The RFC names fields, not bytes. The bytes of requests and answers are those that ls-qpack, another encoder, writes for them.

#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use bytes::Bytes;
use http::StatusCode;
use m2m_tunnel::{
    capsule::{AssignedAddress, Capsule, CapsuleReader, RequestedAddress},
    http3::{
        datagram,
        frame::{self, Frame, FrameReader, kind},
        message::{Request, Response},
        settings::Settings,
    },
    qpack::{self, Field},
    request,
    routes::IpRange,
};

/// The stream of every flow: quarter stream id 11.
const STREAM: u64 = 44;

/// An IPv4 packet without payload, from 192.0.2.11 to 198.51.100.2.
const PACKET: &str = "4500 0014 0000 4000 403b 4e6e c000020b c6336402";

// Field lines (RFC 9204 §4.5), names and values as the RFC has them.
/// `:method: CONNECT`, entry 15 of the static table.
const METHOD: &str = "cf";
/// `:protocol: connect-ip`, literal, Huffman code.
const PROTOCOL: &str = "2f00 b95d8749c87a3f 87 21eaa8a44ac6af";
/// `:scheme: https`, entry 23.
const SCHEME: &str = "d7";
/// `:authority: proxy.example.com`, name of entry 0, Huffman code.
const AUTHORITY: &str = "50 8d aec3f9f4b97c8e9ae82ae43d3f";
/// `:status: 200`, entry 25.
const STATUS: &str = "d9";
/// `capsule-protocol: ?1`, literal, Huffman code for the name only.
const CAPSULE_PROTOCOL: &str = "2f04 20eb45b4156aec3a4e43d1 02 3f31";

/// §8.1: the client asks, and may send everything through the tunnel.
#[test]
fn full_tunnel_vpn() {
    settings_are_exchanged();
    request_is_granted("/vpn", "51 04 2f76706e");
    let (mut client, mut proxy) = (Side::default(), Side::default());
    client.says("00 09  02 07 01 04 00000000 20", Capsule::AddressRequest(vec![requested(1, "0.0.0.0/32")]));
    proxy.says("00 09  01 07 01 04 c000020b 20", Capsule::AddressAssign(vec![assigned(1, "192.0.2.11/32")]));
    proxy.says(
        "00 0c  03 0a 04 00000000 ffffffff 00",
        Capsule::RouteAdvertisement(vec![range("0.0.0.0", "255.255.255.255", 0)]),
    );
    client.ends();
    proxy.ends();
    packets_follow();
}

/// §8.1: addresses come unasked, and the routes leave the client's own address out.
#[test]
fn split_tunnel_vpn() {
    let mut proxy = Side::default();
    proxy.says("00 09  01 07 00 04 c000022a 20", Capsule::AddressAssign(vec![assigned(0, "192.0.2.42/32")]));
    proxy.says(
        "00 16  03 14  04 c0000200 c0000229 00  04 c000022b c00002ff 00",
        Capsule::RouteAdvertisement(vec![range("192.0.2.0", "192.0.2.41", 0), range("192.0.2.43", "192.0.2.255", 0)]),
    );
    proxy.ends();
}

/// §8.2: both sides assign an address and advertise a network.
#[test]
fn site_to_site_vpn() {
    settings_are_exchanged();
    request_is_granted("/corp", "51 84 6087b2bf");
    let (mut client, mut proxy) = (Side::default(), Side::default());
    client.says("00 09  01 07 00 04 c00002c8 20", Capsule::AddressAssign(vec![assigned(0, "192.0.2.200/32")]));
    client.says(
        "00 0c  03 0a 04 c0000200 c00002ff 00",
        Capsule::RouteAdvertisement(vec![range("192.0.2.0", "192.0.2.255", 0)]),
    );
    proxy.says("00 09  01 07 00 04 cb007164 20", Capsule::AddressAssign(vec![assigned(0, "203.0.113.100/32")]));
    proxy.says(
        "00 0c  03 0a 04 cb007100 cb0071ff 00",
        Capsule::RouteAdvertisement(vec![range("203.0.113.0", "203.0.113.255", 0)]),
    );
    client.ends();
    proxy.ends();
    packets_follow();
}

/// §8.3: one host and one protocol, SCTP.
#[test]
fn ip_flow_forwarding() {
    settings_are_exchanged();
    request_is_granted(
        "/proxy?target=target.example.com&ipproto=132",
        "51 a0 62bb0fe7d7f891d93153024764c54ae5f23a6ba0ab90f4fc1abaec3a4f005917",
    );
    let mut proxy = Side::default();
    proxy.says(
        "00 15  01 13 00 06 20010db812340000000000000000000a 80",
        Capsule::AddressAssign(vec![assigned(0, "2001:db8:1234::a/128")]),
    );
    proxy.says(
        "00 24  03 22 06 20010db834560000000000000000000b 20010db834560000000000000000000b 84",
        Capsule::RouteAdvertisement(vec![range("2001:db8:3456::b", "2001:db8:3456::b", 132)]),
    );
    proxy.ends();
    packets_follow();
}

/// §8.4: one host and one protocol, UDP, over both families.
#[test]
fn proxied_connection_racing() {
    settings_are_exchanged();
    request_is_granted(
        "/proxy?target=target.example.com&ipproto=17",
        "51 9f 62bb0fe7d7f891d93153024764c54ae5f23a6ba0ab90f4fc1abaec3a4f005d",
    );
    let mut proxy = Side::default();
    proxy.says(
        "00 1c  01 1a  00 04 c0000203 20  00 06 20010db8000000000000000012341234 80",
        Capsule::AddressAssign(vec![assigned(0, "192.0.2.3/32"), assigned(0, "2001:db8::1234:1234/128")]),
    );
    proxy.says(
        "00 2e  03 2c  04 c6336402 c6336402 11  06 20010db834560000000000000000000b 20010db834560000000000000000000b 11",
        Capsule::RouteAdvertisement(vec![
            range("198.51.100.2", "198.51.100.2", 17),
            range("2001:db8:3456::b", "2001:db8:3456::b", 17),
        ]),
    );
    proxy.ends();
    packets_follow();
}

/// The requests of §8.3 and §8.4 at the template that §3 recommends, and the other forms of §4.6.
#[test]
fn scopes_at_the_recommended_template() {
    let name = request::Target::Name("target.example.com".into());
    let prefix = |text: &str| request::Target::Prefix(text.parse().unwrap());
    for (path, target, ip_protocol) in [
        ("/.well-known/masque/ip/target.example.com/132/", name.clone(), Some(132)),
        ("/.well-known/masque/ip/target.example.com/17/", name, Some(17)),
        ("/.well-known/masque/ip/2001%3Adb8%3A%3A42/*/", prefix("2001:db8::42/128"), None),
        ("/.well-known/masque/ip/192.0.2.0%2F24/17/", prefix("192.0.2.0/24"), Some(17)),
        ("/.well-known/masque/ip/*/*/", request::Target::Any, None),
    ] {
        assert_eq!(request::scope(&connect_ip(path)), Ok(request::Scope { target, ip_protocol }), "{path}");
    }
}

/// Both control streams' first frame: the client takes HTTP datagrams, the proxy extended CONNECT as well.
fn settings_are_exchanged() {
    let client = Settings { h3_datagram: true, ..Settings::default() };
    let proxy = Settings { enable_connect_protocol: true, ..client };
    for (bytes, settings) in [("04 02  33 01", client), ("04 04  08 01  33 01", proxy)] {
        assert_eq!(framed(kind::SETTINGS, &settings.encode()), hex(bytes));
        assert_eq!(Settings::decode(&payload(kind::SETTINGS, &hex(bytes))), Ok(settings));
    }
}

/// The two HEADERS frames. `path_line` is the field line of `:path`.
fn request_is_granted(path: &str, path_line: &str) {
    let request = connect_ip(path);
    // The RFC's order is not that of this encoder; both say the same (RFC 9114 §4.3).
    let of_rfc = section(&[METHOD, PROTOCOL, SCHEME, path_line, AUTHORITY, CAPSULE_PROTOCOL]);
    let own = section(&[METHOD, PROTOCOL, SCHEME, AUTHORITY, path_line, CAPSULE_PROTOCOL]);
    assert_eq!(framed(kind::HEADERS, &qpack::encode(&request.to_fields())), own);
    for bytes in [own, of_rfc] {
        let fields = qpack::decode(&payload(kind::HEADERS, &bytes)).unwrap();
        assert_eq!(Request::from_fields(fields), Ok(request.clone()));
    }

    let answer = section(&[STATUS, CAPSULE_PROTOCOL]);
    let granted = request::granted();
    assert_eq!(framed(kind::HEADERS, &qpack::encode(&granted.to_fields())), answer);
    let fields = qpack::decode(&payload(kind::HEADERS, &answer)).unwrap();
    let expected = Response { status: StatusCode::OK, fields: vec![Field::new("capsule-protocol", "?1")] };
    assert_eq!(Response::from_fields(fields), Ok(expected.clone()));
    assert!(request::starts_capsules(&expected));
}

/// A packet in a QUIC datagram, and the same one in a capsule, as HTTP/2 has it.
fn packets_follow() {
    let packet = hex(PACKET);
    let bytes = [hex("0b 00"), packet.clone()].concat();
    let mut written = Vec::new();
    datagram::write_prefix(STREAM, &mut written);
    written.extend(&packet);
    assert_eq!(written, bytes);
    let read = datagram::read(bytes.into()).unwrap().unwrap();
    assert_eq!((read.stream, read.context, &read.payload[..]), (STREAM, datagram::IP_CONTEXT, &packet[..]));

    let mut side = Side::default();
    let payload = Bytes::from([&[0][..], &packet[..]].concat());
    side.says(&format!("00 17  00 15 00 {PACKET}"), Capsule::Datagram(payload));
    side.ends();
}

/// What one side sends on the stream after the field sections.
#[derive(Default)]
struct Side {
    stream: Vec<u8>,
    said: Vec<Capsule>,
}

impl Side {
    /// A capsule in a DATA frame of its own.
    fn says(&mut self, frame: &str, capsule: Capsule) {
        let mut encoded = Vec::new();
        capsule.encode(&mut encoded);
        assert_eq!(framed(kind::DATA, &encoded), hex(frame), "{capsule:?}");
        self.stream.extend(hex(frame));
        self.said.push(capsule);
    }

    /// The peer hears what was said, whether the stream arrives at once or in pieces of any size.
    fn ends(self) {
        for size in 1..=self.stream.len() {
            let (mut frames, mut capsules, mut heard) = (FrameReader::default(), CapsuleReader::default(), Vec::new());
            for piece in self.stream.chunks(size) {
                frames.push(piece);
                while let Some(frame) = frames.next_frame().unwrap() {
                    let Frame::Data(data) = frame else { panic!("{frame:?} is no DATA frame") };
                    capsules.push(&data);
                    while let Some(capsule) = capsules.next_capsule().unwrap() {
                        heard.push(capsule);
                    }
                }
            }
            assert_eq!(heard, self.said, "in pieces of {size} bytes");
            assert_eq!((frames.finish(), capsules.finish()), (Ok(()), Ok(())));
        }
    }
}

fn connect_ip(path: &str) -> Request {
    Request {
        method: "CONNECT".into(),
        scheme: "https".into(),
        authority: "proxy.example.com".into(),
        path: path.into(),
        protocol: Some("connect-ip".into()),
        fields: vec![Field::new("capsule-protocol", "?1")],
    }
}

/// A HEADERS frame with these field lines, behind a prefix without a dynamic table (RFC 9204 §4.5.1).
fn section(lines: &[&str]) -> Vec<u8> {
    let section: Vec<u8> = hex("00 00").into_iter().chain(lines.iter().flat_map(|line| hex(line))).collect();
    let length = u8::try_from(section.len()).unwrap();
    // From 64 a length takes two bytes (RFC 9000 §16).
    let header = if length < 64 { vec![0x01, length] } else { vec![0x01, 0x40, length] };
    [header, section].concat()
}

fn framed(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::write(kind, payload, &mut bytes);
    bytes
}

/// The payload of the only frame in `bytes`.
fn payload(kind: u64, bytes: &[u8]) -> Bytes {
    let mut frames = FrameReader::default();
    frames.push(bytes);
    let Some(Frame::Whole { kind: found, payload }) = frames.next_frame().unwrap() else { panic!("no whole frame") };
    assert_eq!(found, kind);
    assert_eq!((frames.next_frame(), frames.finish()), (Ok(None), Ok(())));
    payload
}

fn requested(request_id: u64, prefix: &str) -> RequestedAddress {
    RequestedAddress { request_id, prefix: prefix.parse().unwrap() }
}

fn assigned(request_id: u64, prefix: &str) -> AssignedAddress {
    AssignedAddress { request_id, prefix: prefix.parse().unwrap() }
}

fn range(start: &str, end: &str, protocol: u8) -> IpRange {
    let [start, end] = [start, end].map(|text| text.parse::<IpAddr>().unwrap());
    IpRange::new(start, end, protocol).unwrap()
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).unwrap().try_into().unwrap()).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}
