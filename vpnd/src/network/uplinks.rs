//! Tells when the machine's way to the internet changes.

/// The machine's ways to the internet, now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Uplinks {
    /// There is an IPv4 default route on a link that is up.
    pub ipv4: bool,
    /// There is an IPv6 default route on a link that is up.
    pub ipv6: bool,
    /// Grows with each change of links, addresses or default routes, so that a receiver notices one way replacing another.
    pub generation: u64,
}

impl Uplinks {
    /// There is a way at all.
    #[must_use]
    pub fn any(&self) -> bool {
        self.ipv4 || self.ipv6
    }
}
