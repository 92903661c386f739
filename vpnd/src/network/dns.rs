//! The machine's name resolution through the tunnel, by systemd-resolved.

/// Who resolves names for the machine's programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// systemd-resolved, over the system bus.
    Resolved,
    /// Nobody that is ours to tell: the tunnel's resolvers are reachable, and using them is left to the machine's owner.
    None,
}

/// Why name resolution was not set.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    /// No system bus.
    #[error("cannot reach the system bus: {reason}; is dbus.service running?")]
    Bus {
        /// What happened.
        reason: String,
    },
    /// systemd-resolved refused.
    #[error("systemd-resolved refused {call}: {reason}; {advice}")]
    Refused {
        /// The D-Bus method.
        call: &'static str,
        /// What it said.
        reason: String,
        /// What to check.
        advice: &'static str,
    },
    /// No answer in time.
    #[error("systemd-resolved did not answer within 5 seconds; is systemd-resolved.service running?")]
    TimedOut,
}
