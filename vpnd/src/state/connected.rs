//! The tunnel is up.

use std::time::Instant;

use m2m_protocol::names::HttpsOrigin;

use super::{Attempt, Command, Connecting, Context, Disconnected, Event, Membership, Pace, Standby, State, Step};

/// A tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    membership: Membership,
    /// Which of the gateways it goes through.
    gateway: usize,
    attempt: Attempt,
}

impl Connected {
    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> Option<&HttpsOrigin> {
        self.membership.gateways.get(self.gateway)
    }

    pub(super) fn enter(membership: Membership, gateway: usize, attempt: Attempt) -> Step {
        (State::Connected(Self { membership, gateway, attempt }), Vec::new())
    }

    pub(super) fn handle(mut self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::TunnelMoved { attempt, gateway } if attempt == self.attempt => {
                self.gateway = gateway;
                (State::Connected(self), Vec::new())
            }
            Event::TunnelDown { attempt, reason } if attempt == self.attempt => {
                let cause = format!("the tunnel ended: {reason}");
                let (state, commands) = Connecting::go_on(self.membership, attempt, Some(cause), Pace::default());
                (State::Connecting(state), commands)
            }
            Event::TunnelAsleep { attempt } if attempt == self.attempt => {
                Standby::enter(self.membership, attempt, Pace::default())
            }
            Event::TunnelFailed { attempt, .. } if attempt == self.attempt => {
                let (connecting, _) = Connecting::go_on(self.membership, attempt, None, Pace::default());
                connecting.handle(event, context, now)
            }
            Event::Disconnect => {
                let (state, _) = Disconnected::enter(self.membership, Pace::default());
                (state, vec![Command::Stop { attempt: self.attempt }])
            }
            _ => (State::Connected(self), Vec::new()),
        }
    }
}
