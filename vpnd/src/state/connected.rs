//! The tunnel is up.

use std::time::{Duration, Instant};

use m2m_protocol::names::HttpsOrigin;
use rand::RngExt;

use super::{Attempt, Command, Connecting, Context, Disconnected, Event, Membership, Pace, State, Step};

/// A tunnel that stood this long was good, so that its end is news and not one more failure.
const STABLE: Duration = Duration::from_secs(60);
/// A gateway that goes down drops all its devices at once; they come back spread over this time.
const SPREAD: Duration = Duration::from_secs(2);

/// A tunnel through one gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    membership: Membership,
    /// Which of the gateways.
    gateway: usize,
    attempt: Attempt,
    since: Instant,
    pace: Pace,
}

impl Connected {
    /// The gateway.
    #[must_use]
    pub fn gateway(&self) -> &HttpsOrigin {
        &self.membership.gateways[self.gateway]
    }

    pub(super) fn enter(membership: Membership, gateway: usize, attempt: Attempt, pace: Pace, now: Instant) -> Step {
        (State::Connected(Self { membership, gateway, attempt, since: now, pace }), Vec::new())
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        let stop = vec![Command::Stop { attempt: self.attempt }];
        match event {
            Event::TunnelDown { attempt, reason } if attempt == self.attempt => {
                self.lost(format!("the tunnel ended: {reason}"), 0, context, now)
            }
            Event::GatewayLeaves { attempt } if attempt == self.attempt => {
                let next = self.gateway + 1;
                let (state, _) = self.lost("the gateway is going down".to_owned(), next, context, now);
                (state, stop)
            }
            Event::Disconnect => {
                let (state, _) = Disconnected::enter(self.membership, self.pace);
                (state, stop)
            }
            _ => (State::Connected(self), Vec::new()),
        }
    }

    fn lost(mut self, cause: String, next: usize, context: &mut Context, now: Instant) -> Step {
        let wait = if now.saturating_duration_since(self.since) >= STABLE {
            self.pace.reset();
            SPREAD.mul_f64(context.rng.random_range(0.0..=1.0))
        } else {
            self.pace.quick.next(&mut context.rng)
        };
        Connecting::resume(self.membership, next, cause, wait, self.pace, now)
    }
}
