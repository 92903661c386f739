//! What the kernel answers over netlink.

use std::io;

use rtnetlink::Error;

/// The kernel refused an address, route or rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot {action}: {reason}")]
pub struct KernelError {
    /// What was to be done.
    pub action: String,
    /// What the kernel said, and what to do about it.
    pub reason: String,
}

impl KernelError {
    /// No netlink socket.
    pub(super) fn socket(error: &io::Error) -> Self {
        Self { action: "open a netlink socket".to_owned(), reason: error.to_string() }
    }
}

/// Turns netlink's errors into ours.
pub(super) trait Because<T>: Sized {
    /// Says what was to be done.
    fn because(self, action: impl FnOnce() -> String) -> Result<T, KernelError>;
}

impl<T> Because<T> for Result<T, Error> {
    fn because(self, action: impl FnOnce() -> String) -> Result<T, KernelError> {
        self.map_err(|error| KernelError { action: action(), reason: reason(&error) })
    }
}

/// Removing what is gone is no error.
pub(super) trait OrGone {
    /// Success, if the kernel says that the thing to be removed does not exist.
    fn or_gone(self) -> Self;
}

impl OrGone for Result<(), Error> {
    fn or_gone(self) -> Self {
        match self {
            Err(error) if GONE.contains(&code(&error)) => Ok(()),
            other => other,
        }
    }
}

/// What the kernel says for an address, route, rule or interface that does not exist.
const GONE: [i32; 4] = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];

/// The error number; 0 where it was not the kernel that failed.
pub(super) fn code(error: &Error) -> i32 {
    match error {
        Error::NetlinkError(message) => -message.raw_code(),
        _ => 0,
    }
}

fn reason(error: &Error) -> String {
    match code(error) {
        0 => error.to_string(),
        libc::EPERM => "not allowed; run the program with CAP_NET_ADMIN (AmbientCapabilities= in its unit)".to_owned(),
        libc::ENODEV => "the interface is gone".to_owned(),
        code => io::Error::from_raw_os_error(code).to_string(),
    }
}
