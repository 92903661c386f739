//! The tunnel interface's MTU, state and addresses.

/// The kernel refused an address, route or rule.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {reason}")]
pub struct KernelError {
    /// What was to be done.
    pub action: String,
    /// What the kernel said, and what to do about it.
    pub reason: String,
}
