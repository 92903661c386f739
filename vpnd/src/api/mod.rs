//! The local API: HTTP and JSON over a Unix socket.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | 200 and [`Status`] |
//! | `POST /v1/connect` | 200 and [`Status`]: the tunnel is wanted from now on |
//! | `POST /v1/disconnect` | 200 and [`Status`]: no tunnel is wanted until the next connect or start of the daemon |
//!
//! The peer's credentials decide: root, the daemon's own user and members of group `vpnd` may do everything, everybody else may
//! read the status; else the answer is 403. Errors are Problem Details (RFC 9457).

mod board;
pub mod client;
mod server;

use std::net::IpAddr;

use ipnet::IpNet;
use m2m_protocol::names::HttpsOrigin;
use serde::{Deserialize, Serialize};

use crate::certificate::Summary;
use crate::state::StateName;

pub use board::Board;
pub use server::{Server, Word};

/// What the device is doing, and with whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The state.
    pub state: StateName,
    /// Why there is no tunnel, for a human; null when there is nothing to say.
    pub cause: Option<String>,
    /// The name under which the manager keeps the device; null before it is enrolled, and on a machine without a manager.
    pub device_id: Option<String>,
    /// The gateway that the tunnel goes to, or is about to.
    pub gateway: Option<HttpsOrigin>,
    /// The addresses inside the tunnel; empty unless connected.
    pub addresses: Vec<IpNet>,
    /// The destinations that go through the tunnel; empty unless connected.
    pub routes: Vec<IpNet>,
    /// The resolvers that are asked through the tunnel; empty unless connected.
    pub dns: Vec<IpAddr>,
    /// When the state was entered, in seconds of `CLOCK_BOOTTIME`.
    pub since: f64,
    /// What went through the tunnel since the daemon started.
    pub counters: Counters,
    /// When what was first done by this run of the daemon.
    pub milestones: Milestones,
    /// The device's certificate; null while there is none.
    pub certificate: Option<Summary>,
    /// How the device proves who it is.
    pub authentication: Authentication,
}

/// How a device proves who it is, and what came of it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Authentication {
    /// The kind of key.
    pub method: Method,
    /// Where the key lives: how the TPM is reached, a PKCS #11 URI, a file.
    pub key: String,
    /// What came of it last; null before anything did.
    pub last: Option<Outcome>,
}

/// The kind of a device's key, as the table of `vpnd.toml` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// In the TPM 2.0.
    Tpm,
    /// On a card.
    Pkcs11,
    /// In a file with a PIN.
    Pkcs12,
    /// In a file that opens on this machine only.
    Bound,
    /// In a file.
    #[default]
    Pem,
}

/// What came of an authentication.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Whether the gateway let the device in.
    pub accepted: bool,
    /// Why not, for a human; null when it did.
    pub reason: Option<String>,
    /// When, in seconds of `CLOCK_BOOTTIME`.
    pub at: f64,
}

/// What went through the tunnel: IP packets, and their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Bytes into the tunnel.
    pub tx_bytes: u64,
    /// Bytes out of the tunnel.
    pub rx_bytes: u64,
    /// Packets into the tunnel.
    pub tx_packets: u64,
    /// Packets out of the tunnel.
    pub rx_packets: u64,
}

/// Points in time, in seconds of `CLOCK_BOOTTIME`; null for what this run of the daemon has not done.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Milestones {
    /// The daemon started.
    pub started: Option<f64>,
    /// A key was made in the TPM.
    pub key_made: Option<f64>,
    /// The manager's certificate was stored.
    pub enrolled: Option<f64>,
    /// The first tunnel was up.
    pub tunnel_up: Option<f64>,
}
