//! What a device is told about its ways to the internet.

use serde::{Deserialize, Serialize};

use crate::first_boot::InterfaceMatch;

/// How the tunnel is to use the uplinks over some interfaces. The uplinks themselves are there or not; this makes none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// The network interfaces that this is about: a name, or a pattern such as `en*`.
    pub interface: InterfaceMatch,
    /// Lower is preferred; among equal ones the lower metric of the machine's default route. Uplinks without an entry have 0.
    #[serde(default)]
    pub priority: u16,
    /// Whether each byte costs: used only where no uplink works that is not metered, whatever their priorities.
    #[serde(default)]
    pub metered: bool,
}
