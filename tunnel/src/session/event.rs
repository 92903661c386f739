//! What happens in a tunnel.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;

use super::CloseReason;
use crate::{
    capsule::{AssignedAddress, RequestedAddress},
    http3::message::Request,
    routes::IpRange,
    scope::Scope,
};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The TLS handshake is complete: the peer is who it says.
    Connected,
    /// To a server: somebody asks for a tunnel, confined to this.
    Requested(Box<Request>, Scope),
    /// To a client: the tunnel is open.
    Established,
    /// To a client: the gateway answered, and not with success. 401 and 403: this device is not let in.
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words, empty if it gave none.
        reason: String,
    },
    /// To a client: the server at this address speaks HTTP but not CONNECT-IP.
    Unsupported {
        /// The setting that is missing.
        missing: &'static str,
    },
    /// These are all addresses that this side has now: they replace the former ones.
    AddressesAssigned(Vec<AssignedAddress>),
    /// The peer asks for addresses: to be answered with all that it has.
    AddressesRequested(Vec<RequestedAddress>),
    /// These are all ranges that the peer reaches now: they replace the former ones.
    RoutesAdvertised(Vec<IpRange>),
    /// A packet that came on the reliable way, in a capsule.
    Packet(Bytes),
    /// The path carries packets of this many bytes from now on.
    PacketSize(usize),
    /// What was sent has had no answer for this long.
    Silent(Duration),
    /// The peer answers, after silence or after [`Session::ping`](super::Session::ping).
    Answers,
    /// A keepalive after this silence was answered over the path as it was.
    BindingKept(Duration),
    /// A keepalive after this silence was answered over a path that is new to the peer: a NAT on the way had forgotten the old one.
    BindingLost(Duration),
    /// The peer is about to leave: set up another session elsewhere while this one still works.
    GoAway,
    /// The tunnel is gone.
    Closed(CloseReason),
}
