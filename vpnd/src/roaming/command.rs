//! What the driver is to do, and what it is told.

use std::fmt;
use std::time::Duration;

use super::link::LinkId;
use super::uplink::UplinkId;
use crate::state::ConnectFailure;

/// What carries the tunnel's packets. HTTP/3 is preferred.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// QUIC datagrams over UDP.
    Http3,
    /// Capsules over TLS over TCP, through the proxy where one is configured.
    Http2,
}

/// What the driver is to do. Commands are carried out in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Connect; answer with [`Event::LinkUp`](super::Event::LinkUp) or [`Event::LinkFailed`](super::Event::LinkFailed).
    Open {
        /// The name of the new connection.
        link: LinkId,
        /// The interface to use.
        uplink: UplinkId,
        /// Which gateway of [`Config::gateways`](super::Config::gateways).
        gateway: usize,
        /// Over what.
        transport: Transport,
    },
    /// From now on the machine's packets go into this link, and into no other.
    Activate {
        /// The link; it is up.
        link: LinkId,
    },
    /// End this connection or attempt. No event about it is expected; any that is under way is ignored.
    Close {
        /// The link.
        link: LinkId,
        /// Why.
        reason: CloseReason,
    },
    /// Give the QUIC connection a new socket on this interface, because its old address or interface is gone: it migrates (RFC 9000
    /// section 9). A [`Command::Probe`] follows.
    Rebind {
        /// The link.
        link: LinkId,
        /// The interface.
        uplink: UplinkId,
    },
    /// Ping now; answer with [`Event::LinkAnswers`](super::Event::LinkAnswers) if an answer comes.
    Probe {
        /// The link.
        link: LinkId,
    },
    /// Ping whenever nothing has passed through the link for this long, in either direction.
    SetKeepalive {
        /// The active link.
        link: LinkId,
        /// The silence.
        interval: Duration,
    },
    /// Nothing to do: for the log, the status and whoever started this.
    Report(Report),
}

/// What became of the tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// There is a tunnel.
    Up {
        /// Over this link.
        link: LinkId,
    },
    /// The tunnel goes on over another link.
    Moved {
        /// The former one, which may be gone.
        from: LinkId,
        /// The present one.
        to: LinkId,
    },
    /// The tunnel is interrupted, and another link is looked for.
    Stalled {
        /// The link.
        link: LinkId,
        /// What is wrong with it.
        stall: Stall,
    },
    /// The tunnel goes on over the same link.
    Resumed {
        /// The link.
        link: LinkId,
    },
    /// There is no tunnel any more; it is tried for ever to get one.
    Down {
        /// Why the last link ended.
        reason: String,
    },
    /// A round of attempts brought no tunnel; the next one follows by itself.
    Failed {
        /// The gateway that it is about; `None` where there is nothing to connect over.
        gateway: Option<usize>,
        /// The gravest failure of the round.
        failure: ConnectFailure,
    },
    /// On demand: nobody used the tunnel, or nobody did yet. Everything is closed, and the next packet opens it.
    Asleep,
}

/// Why a tunnel is interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// The uplink is gone.
    NoUplink,
    /// The gateway does not answer.
    NoAnswer,
}

/// Why a link is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Another attempt came up first, or the link that it was to replace works again.
    NotNeeded,
    /// Another link took its place.
    Replaced,
    /// It did not come up in time.
    TimedOut,
    /// Its uplink is gone, or not what it was.
    UplinkGone,
    /// It came up, and did not answer reliably.
    Unreliable,
    /// The gateway is going down.
    GatewayLeaves,
    /// This device has nothing to connect with.
    GivenUp,
    /// On demand: nobody uses the tunnel.
    Idle,
    /// The tunnel is not wanted any more.
    Stopped,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotNeeded => "not needed",
            Self::Replaced => "replaced by another link",
            Self::TimedOut => "no answer in time",
            Self::UplinkGone => "the uplink is gone",
            Self::Unreliable => "answers are missing",
            Self::GatewayLeaves => "the gateway is going down",
            Self::GivenUp => "given up",
            Self::Idle => "nobody uses the tunnel",
            Self::Stopped => "the tunnel is not wanted any more",
        })
    }
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoUplink => "the uplink is gone",
            Self::NoAnswer => "the gateway does not answer",
        })
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http3 => "HTTP/3",
            Self::Http2 => "HTTP/2",
        })
    }
}
