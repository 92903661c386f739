//! Who may begin a handshake: a flood must neither fill the memory nor keep the devices out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Counts the handshakes that are under way.
#[derive(Debug)]
pub(crate) struct Admission {
    max: u32,
    retry_above: u32,
    under_way: Arc<AtomicU32>,
}

impl Admission {
    /// At most `max` handshakes at once; clients prove their address first while more than `retry_above` are under way.
    pub(crate) fn new(max: u32, retry_above: u32) -> Self {
        Self { max, retry_above, under_way: Arc::new(AtomicU32::new(0)) }
    }

    /// Decides about the first packet of a connection.
    pub(crate) fn decide(&self, address_proven: bool) -> Decision {
        let under_way = self.under_way.load(Ordering::Relaxed);
        if under_way >= self.retry_above && !address_proven {
            return Decision::Retry;
        }
        if under_way >= self.max {
            return Decision::Refuse;
        }
        self.under_way.fetch_add(1, Ordering::Relaxed);
        Decision::Accept(Handshake { under_way: Arc::clone(&self.under_way) })
    }

    /// The number of handshakes under way.
    pub(crate) fn under_way(&self) -> u32 {
        self.under_way.load(Ordering::Relaxed)
    }
}

/// What to do with the first packet of a connection.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Begin the handshake.
    Accept(Handshake),
    /// Ask the client to come again with a token, which proves its address (RFC 9000 section 8.1.2). Costs no state.
    Retry,
    /// Refuse.
    Refuse,
}

/// A handshake under way; over when it is dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    under_way: Arc<AtomicU32>,
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_free_then_with_proof_then_none() {
        let admission = Admission::new(3, 1);
        let mut under_way = Vec::new();
        let mut accepted = |proven| match admission.decide(proven) {
            Decision::Accept(handshake) => {
                under_way.push(handshake);
                "accept"
            }
            Decision::Retry => "retry",
            Decision::Refuse => "refuse",
        };
        assert_eq!(
            [accepted(false), accepted(false), accepted(true), accepted(true)],
            ["accept", "retry", "accept", "accept"]
        );
        assert_eq!([accepted(true), accepted(false)], ["refuse", "retry"]);
        under_way.clear();
        assert_eq!(admission.under_way(), 0);
        assert!(matches!(admission.decide(false), Decision::Accept(_)));
    }
}
