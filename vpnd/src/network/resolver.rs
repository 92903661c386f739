//! The addresses of gateway and manager, asked from the uplink's resolvers.

/// Why a name has no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The uplink has no resolver.
    #[error("cannot resolve {name}: the uplink has no DNS server yet")]
    NoResolver {
        /// The name.
        name: String,
    },
    /// The resolvers say that the name has no address.
    #[error("{name} has no address, the uplink's DNS server says")]
    NoAddress {
        /// The name.
        name: String,
    },
    /// The resolvers did not answer.
    #[error("cannot resolve {name}: {reason}")]
    Failed {
        /// The name.
        name: String,
        /// What happened.
        reason: String,
    },
}
