//! What the driver tells.

use std::net::IpAddr;
use std::time::Duration;

use super::link::LinkId;
use super::uplink::Uplink;
use crate::state::ConnectFailure;

/// What happened. News of links that were closed is ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The uplinks, all of them, whenever one of them changed.
    UplinksChanged(Vec<Uplink>),
    /// A link that was opened carries packets: the gateway let this device in and assigned its addresses.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The local address that it uses; `None` where the driver does not know.
        local: Option<IpAddr>,
    },
    /// A link that was opened did not come up.
    LinkFailed {
        /// The link.
        link: LinkId,
        /// Why.
        failure: ConnectFailure,
    },
    /// A link that was up is gone.
    LinkLost {
        /// The link.
        link: LinkId,
        /// Why.
        loss: Loss,
    },
    /// A link that is up carries packets to the gateway, or a probe, and nothing has come back for too long: some round trips, 300 ms
    /// at least.
    LinkSilent {
        /// The link.
        link: LinkId,
    },
    /// Something came back after [`Event::LinkSilent`], or after a [`Command::Probe`](super::Command::Probe).
    LinkAnswers {
        /// The link.
        link: LinkId,
    },
    /// The link's socket was renewed after [`Command::Rebind`](super::Command::Rebind), and uses this address.
    LinkRebound {
        /// The link.
        link: LinkId,
        /// The local address.
        local: Option<IpAddr>,
    },
    /// The gateway is about to end the link (GOAWAY, RFC 9114 section 5.2), which still works.
    GoAway {
        /// The link.
        link: LinkId,
    },
    /// A keepalive after this silence was answered over the same NAT binding.
    KeepaliveAnswered {
        /// The link.
        link: LinkId,
        /// For how long nothing had passed in either direction.
        silence: Duration,
    },
    /// The NAT binding did not survive this silence: the gateway validated a new path after the keepalive, or, with HTTP/2, the
    /// connection was dead.
    BindingLost {
        /// The link.
        link: LinkId,
        /// For how long nothing had passed in either direction.
        silence: Duration,
    },
    /// On demand: the machine has a packet for the tunnel, and there is no link.
    Traffic,
    /// On demand: no packet has passed through the tunnel, in either direction, for as long as the configuration says.
    Idle,
    /// The tunnel is not wanted any more. This machine is of no use after that.
    Stop,
}

/// Why a link is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// The gateway ended it, or does not know it any more: it may have ended all of its links.
    ByGateway(String),
    /// No answer for the idle timeout, or a local error.
    ByPath(String),
}

impl Loss {
    /// In words.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Self::ByGateway(reason) | Self::ByPath(reason) => reason,
        }
    }
}
