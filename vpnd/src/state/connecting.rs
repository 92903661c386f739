//! The device is on the way to a tunnel.

use std::time::Instant;

use m2m_protocol::names::HttpsOrigin;

use super::enrolling::Enrolling;
use super::{
    Attempt, Command, ConnectFailure, Connected, Context, Disconnected, Error, Event, Membership, Pace, Recovery,
    Standby, State, Step,
};

/// An attempt runs, or the next one waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connecting {
    membership: Membership,
    /// The gateway that the last news was about.
    gateway: Option<usize>,
    cause: Option<String>,
    phase: Phase,
    pace: Pace,
}

/// The attempt has no deadline: it tries again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running(Attempt),
    Waiting { until: Instant },
}

impl Connecting {
    /// Why there is no tunnel yet.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The gateway that the cause is about; without one, the preferred gateway.
    #[must_use]
    pub fn gateway(&self) -> Option<&HttpsOrigin> {
        match self.phase {
            Phase::Running(_) => self.membership.gateways.get(self.gateway.unwrap_or(0)),
            Phase::Waiting { .. } => None,
        }
    }

    pub(super) fn begin(membership: Membership, pace: Pace, context: &mut Context, now: Instant) -> Step {
        let waiting = Self { membership, gateway: None, cause: None, phase: Phase::Waiting { until: now }, pace };
        waiting.attempt(context, now)
    }

    /// An attempt whose tunnel is gone, and that goes on.
    pub(super) fn go_on(
        membership: Membership,
        attempt: Attempt,
        cause: Option<String>,
        pace: Pace,
    ) -> (Self, Vec<Command>) {
        (Self { membership, gateway: None, cause, phase: Phase::Running(attempt), pace }, Vec::new())
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.phase {
            Phase::Running(_) => None,
            Phase::Waiting { until } => Some(until),
        }
    }

    pub(super) fn handle(mut self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::TunnelUp { attempt, gateway } if self.is(attempt) => {
                Connected::enter(self.membership, gateway, attempt)
            }
            Event::TunnelTrouble { attempt, gateway, cause } if self.is(attempt) => {
                self.gateway = gateway;
                self.cause = Some(self.about(gateway, &cause));
                (State::Connecting(self), Vec::new())
            }
            Event::TunnelAsleep { attempt } if self.is(attempt) => Standby::enter(self.membership, attempt, self.pace),
            Event::TunnelFailed { attempt, failure } if self.is(attempt) => self.failed(failure, context, now),
            Event::Connect | Event::UplinkChanged if self.deadline().is_some() => self.attempt(context, now),
            Event::Disconnect => {
                let commands = match self.phase {
                    Phase::Running(attempt) => vec![Command::Stop { attempt }],
                    Phase::Waiting { .. } => Vec::new(),
                };
                let (state, _) = Disconnected::enter(self.membership, self.pace);
                (state, commands)
            }
            _ => (State::Connecting(self), Vec::new()),
        }
    }

    pub(super) fn on_timeout(self, context: &mut Context, now: Instant) -> Step {
        self.attempt(context, now)
    }

    fn is(&self, attempt: Attempt) -> bool {
        self.phase == Phase::Running(attempt)
    }

    fn about(&self, gateway: Option<usize>, cause: &str) -> String {
        match gateway.and_then(|gateway| self.membership.gateways.get(gateway)) {
            Some(gateway) => format!("{gateway}: {cause}"),
            None => cause.to_owned(),
        }
    }

    fn attempt(self, context: &mut Context, now: Instant) -> Step {
        if self.membership.gateways.is_empty() {
            let cause = "the configuration names no gateway".to_owned();
            return Error::enter_refused(cause, Recovery::Connect(self.membership), self.pace, context, now);
        }
        let attempt = context.attempt();
        (State::Connecting(Self { phase: Phase::Running(attempt), ..self }), vec![Command::Connect { attempt }])
    }

    fn failed(mut self, failure: ConnectFailure, context: &mut Context, now: Instant) -> Step {
        match failure {
            ConnectFailure::Identity(cause) => Error::enter(cause, Recovery::Look, self.pace, context, now),
            ConnectFailure::Expired(cause) if self.membership.managed => {
                Enrolling::begin(Some(cause), self.pace, context, now)
            }
            ConnectFailure::Expired(cause) => Error::enter_refused(cause, Recovery::Look, self.pace, context, now),
            ConnectFailure::Local(cause) | ConnectFailure::Untrusted(cause) => {
                Error::enter(cause, Recovery::Connect(self.membership), self.pace, context, now)
            }
            ConnectFailure::Refused(cause) => {
                Error::enter_refused(cause, Recovery::Connect(self.membership), self.pace, context, now)
            }
            ConnectFailure::Unreachable(cause) => {
                self.cause = Some(cause);
                let until = now + self.pace.quick.next(&mut context.rng);
                (State::Connecting(Self { phase: Phase::Waiting { until }, ..self }), Vec::new())
            }
        }
    }
}
