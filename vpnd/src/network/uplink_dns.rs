//! Who the uplink's resolvers are.

use std::net::IpAddr;
use std::path::PathBuf;

/// Where the uplink's resolvers are learned from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkDns {
    /// systemd-networkd's state below this directory (`/run/systemd/netif`), besides resolvers that are fixed (the first-boot
    /// file's `uplink.dns`, which are asked first).
    Networkd {
        /// The directory.
        directory: PathBuf,
        /// The fixed ones.
        fixed: Vec<IpAddr>,
    },
    /// `/etc/resolv.conf`, or the file that systemd-resolved keeps when that names only its own stub.
    ResolvConf,
    /// These and no others.
    Fixed(Vec<IpAddr>),
}
