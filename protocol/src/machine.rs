//! What the image knows of the machine on which it runs, and tells the daemon at every boot.

use serde::{Deserialize, Serialize};

use crate::names::Token;

/// The content of `/run/m2mvpn/machine.json`.
///
/// The serial number in the firmware's tables is readable by root alone, and the daemon is not root: so the first-boot
/// program reads it once and leaves it here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// The machine's serial number, as SMBIOS or the device tree gives it, made a [`Token`].
    pub serial: Token,
    /// The host name that the first-boot file's pattern gave.
    pub hostname: String,
}
