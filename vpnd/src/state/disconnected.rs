//! The device is enrolled, and nobody wants the tunnel.

use std::time::Instant;

use super::{Connecting, Context, Event, Membership, Pace, State, Step};

/// Waits for the word to connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnected {
    membership: Membership,
    pace: Pace,
}

impl Disconnected {
    pub(super) fn enter(membership: Membership, pace: Pace) -> Step {
        (State::Disconnected(Self { membership, pace }), Vec::new())
    }

    pub(super) fn handle(self, event: &Event, context: &mut Context, now: Instant) -> Step {
        if *event != Event::Connect {
            return (State::Disconnected(self), Vec::new());
        }
        Connecting::begin(self.membership, self.pace, context, now)
    }
}
