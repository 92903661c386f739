//! What a tunnel is to be kept up over.

use m2m_protocol::device_config::{Mode, Transport as Wanted, TunnelConfig};

use super::memory::Memory;
use super::uplink::Uplink;

/// What a tunnel is to be kept up over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The priorities of the gateways, the lowest first; their place in this list names them.
    pub gateways: Vec<u16>,
    /// Which transports may be used.
    pub transport: Wanted,
    /// Opened by the first packet, closed when idle.
    pub on_demand: bool,
    /// The uplinks that are there.
    pub uplinks: Vec<Uplink>,
    /// What former runs learned of networks.
    pub memory: Memory,
}

impl Config {
    /// From a device's tunnel. Gateways are numbered by priority, equal ones in the order of the configuration.
    #[must_use]
    pub fn new(tunnel: &TunnelConfig, uplinks: Vec<Uplink>, memory: Memory) -> Self {
        let mut gateways: Vec<u16> = tunnel.gateways.iter().map(|gateway| gateway.priority).collect();
        gateways.sort_unstable();
        let on_demand = tunnel.mode == Mode::OnDemand;
        Self { gateways, transport: tunnel.transport, on_demand, uplinks, memory }
    }
}
