//! The tunnel waits for somebody to use it.

use std::time::Instant;

use super::{Attempt, Command, Connected, Connecting, Context, Disconnected, Event, Membership, Pace, State, Step};

/// On demand: the attempt at a tunnel goes on, and opens one for the next packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standby {
    membership: Membership,
    attempt: Attempt,
    pace: Pace,
}

impl Standby {
    pub(super) fn enter(membership: Membership, attempt: Attempt, pace: Pace) -> Step {
        (State::Standby(Self { membership, attempt, pace }), Vec::new())
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::TunnelUp { attempt, gateway } if attempt == self.attempt => {
                Connected::enter(self.membership, gateway, attempt)
            }
            Event::TunnelTrouble { attempt, .. } | Event::TunnelFailed { attempt, .. } if attempt == self.attempt => {
                let (connecting, _) = Connecting::go_on(self.membership, attempt, None, self.pace);
                connecting.handle(event, context, now)
            }
            Event::Disconnect => {
                let (state, _) = Disconnected::enter(self.membership, self.pace);
                (state, vec![Command::Stop { attempt: self.attempt }])
            }
            _ => (State::Standby(self), Vec::new()),
        }
    }
}
