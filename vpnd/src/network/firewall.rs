//! Opens the packet filter for gateway, manager and resolvers, and for nobody else.

use std::io;

/// The packet filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firewall {
    /// The image's table `inet m2mvpn`, whose sets are filled with `nft`.
    Table,
    /// None that is ours to open.
    None,
}

/// Keeps the firewall open for one gateway address while it exists.
#[derive(Debug)]
pub struct Opening {}

/// Why the packet filter was not opened.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// `nft` could not be run.
    #[error("cannot run nft: {0}; install nftables")]
    Run(#[source] io::Error),
    /// `nft` hung.
    #[error("nft did not end within {seconds} seconds")]
    TimedOut {
        /// How long it had.
        seconds: u64,
    },
    /// `nft` refused.
    #[error("nft refused to open the firewall: {reason}; is the table inet m2mvpn loaded (m2mvpn-firewall.service)?")]
    Refused {
        /// What it said.
        reason: String,
    },
}
