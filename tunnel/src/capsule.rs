//! Capsules (RFC 9297 §3.2) and those of CONNECT-IP (RFC 9484 §4.7).

use ipnet::IpNet;

/// An address or prefix that the sender assigns to the receiver (RFC 9484 §4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedAddress {
    /// The request that this answers, 0 when none was made.
    pub request_id: u64,
    /// What the receiver may use as source address. The unspecified address with a full prefix length answers
    /// a request that is refused.
    pub prefix: IpNet,
}

impl AssignedAddress {
    /// An assignment that answers no request.
    #[must_use]
    pub const fn unrequested(prefix: IpNet) -> Self {
        Self { request_id: 0, prefix }
    }
}

/// An address that the sender would like to have (RFC 9484 §4.7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedAddress {
    /// Names the request, not 0, never used twice in a session.
    pub request_id: u64,
    /// The wish; the unspecified address means any.
    pub prefix: IpNet,
}
