//! The flows of RFC 9484 section 8.1, as the journal of the independent implementation writes them down.

use m2m_lab::addresses::{COMPANY_NETWORKS, GATEWAY_V4};
use serde_json::{Value, json};

/// The gateway's addresses in the tunnel: the first ones of its pool.
const GATEWAY_INSIDE_V4: &str = "10.99.0.1";
const GATEWAY_INSIDE_V6: &str = "fd99::1";
/// The first client's: the next ones.
pub(crate) const CLIENT_V4: &str = "10.99.0.2";
const CLIENT_V6: &str = "fd99::2";

/// What carries the tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// QUIC, with packets in datagrams.
    Http3,
    /// TLS over TCP, with packets in capsules.
    Http2,
}

impl Protocol {
    /// The value of the programs' `--protocol`.
    pub(crate) fn argument(self) -> &'static str {
        match self {
            Self::Http3 => "http3",
            Self::Http2 => "http2",
        }
    }

    /// What has to be among a client's settings (RFC 9297 section 2.1.1).
    pub(crate) fn client_settings(self) -> Value {
        match self {
            Self::Http3 => json!({ "0x33": 1 }),
            Self::Http2 => json!({}),
        }
    }

    /// What has to be among a proxy's settings (RFC 8441 section 3, RFC 9220 section 3).
    pub(crate) fn proxy_settings(self) -> Value {
        match self {
            Self::Http3 => json!({ "0x8": 1, "0x33": 1 }),
            Self::Http2 => json!({ "0x8": 1 }),
        }
    }

    /// The request's fields, sorted.
    pub(crate) fn request(self) -> Value {
        json!([
            [":authority", GATEWAY_V4.to_string()],
            [":method", "CONNECT"],
            [":path", "/.well-known/masque/ip/*/*/"],
            [":protocol", "connect-ip"],
            [":scheme", "https"],
            ["capsule-protocol", "?1"],
        ])
    }

    /// The gateway's answer that begins the tunnel, sorted: over QUIC it sends echoes.
    pub(crate) fn granted_by_gateway(self) -> Value {
        let mut fields = granted();
        if let (Self::Http3, Some(fields)) = (self, fields.as_array_mut()) {
            fields.push(json!(["m2mvpn-echo", "?1"]));
        }
        fields
    }

    /// The first packet in one direction, without its length: on the first request's stream, in the context of IP packets.
    pub(crate) fn first_packet(self) -> Value {
        match self {
            Self::Http3 => json!({ "event": "datagram", "quarter_stream_id": 0, "context_id": 0 }),
            Self::Http2 => json!({ "event": "capsule", "stream": 1, "type": "DATAGRAM", "context_id": 0 }),
        }
    }
}

/// A remote access VPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Everything goes through the tunnel; addresses are assigned on request.
    FullTunnel,
    /// Only the company's networks do; addresses are assigned unprompted, and once more to who asks.
    SplitTunnel,
}

impl Flow {
    pub(crate) const BOTH: [Self; 2] = [Self::FullTunnel, Self::SplitTunnel];

    /// A name for files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::FullTunnel => "full-tunnel",
            Self::SplitTunnel => "split-tunnel",
        }
    }

    /// The value of the independent proxy's `--assign`.
    pub(crate) fn assign(self) -> &'static str {
        match self {
            Self::FullTunnel => "on-request",
            Self::SplitTunnel => "unprompted",
        }
    }

    /// The destinations behind the tunnel.
    pub(crate) fn routes(self) -> [&'static str; 2] {
        match self {
            Self::FullTunnel => ["0.0.0.0/0", "::/0"],
            Self::SplitTunnel => COMPANY_NETWORKS,
        }
    }

    /// The same in JSON.
    pub(crate) fn routes_json(self) -> Value {
        json!(self.routes())
    }

    /// What the independent proxy says.
    pub(crate) fn of_proxy(self) -> Vec<Value> {
        match self {
            Self::FullTunnel => vec![address_assign(1, 2), route_advertisement(&self.ranges())],
            Self::SplitTunnel => {
                vec![address_assign(0, 0), route_advertisement(&self.ranges()), address_assign(1, 2)]
            }
        }
    }

    /// The same to a device, which asks for the addresses that it has once more when it begins to use the tunnel.
    pub(crate) fn of_proxy_to_device(self) -> Vec<Value> {
        let again = match self {
            Self::FullTunnel => vec![address_assign(3, 4), route_advertisement(&self.ranges())],
            Self::SplitTunnel => vec![address_assign(3, 4)],
        };
        [self.of_proxy(), again].concat()
    }

    /// What the gateway says: always unprompted, and once more to who asks. It reaches its own addresses, too.
    pub(crate) fn of_gateway(self) -> Vec<Value> {
        let mut ranges = self.ranges();
        if self == Self::SplitTunnel {
            ranges.insert(1, (GATEWAY_INSIDE_V4, GATEWAY_INSIDE_V4));
            ranges.push((GATEWAY_INSIDE_V6, GATEWAY_INSIDE_V6));
        }
        vec![address_assign(0, 0), route_advertisement(&ranges), address_assign(1, 2)]
    }

    /// The first and the last address of each of the routes.
    fn ranges(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::FullTunnel => {
                vec![("0.0.0.0", "255.255.255.255"), ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff")]
            }
            Self::SplitTunnel => vec![("10.20.0.0", "10.20.0.255"), ("fd20::", "fd20::ffff:ffff:ffff:ffff")],
        }
    }
}

/// What the client says: it wants an address of each family, whichever.
pub(crate) fn address_request() -> Value {
    json!({
        "type": "ADDRESS_REQUEST",
        "addresses": [{ "request_id": 1, "prefix": "0.0.0.0/32" }, { "request_id": 2, "prefix": "::/128" }],
    })
}

/// What the device says when it begins to use the tunnel: it is here, with these addresses.
pub(crate) fn address_claim() -> Value {
    json!({
        "type": "ADDRESS_REQUEST",
        "addresses": [
            { "request_id": 3, "prefix": format!("{CLIENT_V4}/32") },
            { "request_id": 4, "prefix": format!("{CLIENT_V6}/128") },
        ],
    })
}

/// The answer that begins the tunnel, sorted.
pub(crate) fn granted() -> Value {
    json!([[":status", "200"], ["capsule-protocol", "?1"]])
}

/// The client's addresses as the gateway lists them.
pub(crate) fn client_addresses() -> Value {
    json!({ "ipv4": CLIENT_V4, "ipv6": CLIENT_V6 })
}

/// The client's addresses as the device lists them.
pub(crate) fn client_prefixes() -> Value {
    json!([format!("{CLIENT_V4}/32"), format!("{CLIENT_V6}/128")])
}

/// The client's addresses, in answer to these requests; 0 is unprompted.
pub(crate) fn address_assign(request_v4: u64, request_v6: u64) -> Value {
    json!({
        "type": "ADDRESS_ASSIGN",
        "addresses": [
            { "request_id": request_v4, "prefix": format!("{CLIENT_V4}/32") },
            { "request_id": request_v6, "prefix": format!("{CLIENT_V6}/128") },
        ],
    })
}

fn route_advertisement(ranges: &[(&str, &str)]) -> Value {
    let range = |(start, end): &(&str, &str)| json!({ "start": start, "end": end, "protocol": 0 });
    json!({ "type": "ROUTE_ADVERTISEMENT", "ranges": ranges.iter().map(range).collect::<Vec<_>>() })
}
