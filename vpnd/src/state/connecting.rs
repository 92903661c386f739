//! The device tries its gateways, one after the other, round after round.

use std::time::{Duration, Instant};

use m2m_protocol::names::HttpsOrigin;

use super::enrolling::Enrolling;
use super::{
    Command, ConnectFailure, Connected, Context, Disconnected, Error, Event, HUNG, Membership, Pace, Phase, Recovery,
    State, Step,
};

/// An attempt at one gateway runs, or the next round waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connecting {
    membership: Membership,
    /// The next gateway of this round, or the one that is being tried.
    next: usize,
    /// What this round has shown so far.
    verdict: Option<Verdict>,
    cause: Option<String>,
    phase: Phase,
    pace: Pace,
}

/// The gravest failure of a round decides how it goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Verdict {
    Unreachable,
    Untrusted(String),
    Refused(String),
}

impl Connecting {
    /// Why the last attempt failed.
    #[must_use]
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The gateway that is being tried.
    #[must_use]
    pub fn gateway(&self) -> Option<&HttpsOrigin> {
        match self.phase {
            Phase::Running { .. } => self.membership.gateways.get(self.next),
            Phase::Waiting { .. } => None,
        }
    }

    pub(super) fn begin(membership: Membership, pace: Pace, context: &mut Context, now: Instant) -> Step {
        Self::idle(membership, 0, None, now, pace).attempt(context, now)
    }

    /// After a tunnel that ended: a round that starts after `wait`, at gateway number `next`.
    pub(super) fn resume(
        membership: Membership,
        next: usize,
        cause: String,
        wait: Duration,
        pace: Pace,
        now: Instant,
    ) -> Step {
        (State::Connecting(Self::idle(membership, next, Some(cause), now + wait, pace)), Vec::new())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.phase.deadline()
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::TunnelUp { attempt } if self.phase.is(attempt) => {
                Connected::enter(self.membership, self.next, attempt, self.pace, now)
            }
            Event::TunnelFailed { attempt, failure } if self.phase.is(attempt) => self.failed(failure, context, now),
            // The daemon may see the end of a tunnel before it told of its beginning.
            Event::TunnelDown { attempt, reason } if self.phase.is(attempt) => {
                self.failed(ConnectFailure::Unreachable(reason), context, now)
            }
            Event::Connect | Event::UplinkChanged if self.phase.is_waiting() => self.attempt(context, now),
            Event::Disconnect => {
                let commands = self.phase.stop();
                let (state, _) = Disconnected::enter(self.membership, self.pace);
                (state, commands)
            }
            _ => (State::Connecting(self), Vec::new()),
        }
    }

    pub(super) fn on_timeout(self, context: &mut Context, now: Instant) -> Step {
        if self.phase.is_waiting() {
            return self.attempt(context, now);
        }
        let stop = self.phase.stop();
        let hung = ConnectFailure::Unreachable("the connection did not come up in time".to_owned());
        let (state, mut commands) = self.failed(hung, context, now);
        commands.splice(0..0, stop);
        (state, commands)
    }

    fn idle(membership: Membership, next: usize, cause: Option<String>, until: Instant, pace: Pace) -> Self {
        Self { membership, next, verdict: None, cause, phase: Phase::Waiting { until }, pace }
    }

    fn attempt(self, context: &mut Context, now: Instant) -> Step {
        let next = if self.next < self.membership.gateways.len() { self.next } else { 0 };
        let Some(gateway) = self.membership.gateways.get(next).cloned() else {
            let cause = "the configuration names no gateway".to_owned();
            return Error::enter_refused(cause, Recovery::Connect(self.membership), self.pace, context, now);
        };
        let attempt = context.attempt();
        let phase = Phase::Running { attempt, deadline: now + HUNG };
        (State::Connecting(Self { next, phase, ..self }), vec![Command::Connect { attempt, gateway }])
    }

    fn failed(mut self, failure: ConnectFailure, context: &mut Context, now: Instant) -> Step {
        let name = self.gateway().map(ToString::to_string).unwrap_or_default();
        let (cause, verdict) = match failure {
            ConnectFailure::Identity(cause) => return Error::enter(cause, Recovery::Look, self.pace, context, now),
            ConnectFailure::Local(cause) => {
                return Error::enter(cause, Recovery::Connect(self.membership), self.pace, context, now);
            }
            ConnectFailure::Expired(cause) if self.membership.managed => {
                return Enrolling::begin(Some(cause), self.pace, context, now);
            }
            ConnectFailure::Expired(cause) => {
                return Error::enter_refused(cause, Recovery::Look, self.pace, context, now);
            }
            ConnectFailure::Unreachable(cause) => (format!("{name}: {cause}"), Verdict::Unreachable),
            ConnectFailure::Untrusted(cause) => {
                let cause = format!("{name}: {cause}");
                (cause.clone(), Verdict::Untrusted(cause))
            }
            ConnectFailure::Refused(cause) => {
                let cause = format!("{name}: {cause}");
                (cause.clone(), Verdict::Refused(cause))
            }
        };
        self.cause = Some(cause);
        self.verdict = Some(match self.verdict.take() {
            Some(former) => former.graver(verdict),
            None => verdict,
        });
        self.next += 1;
        if self.next < self.membership.gateways.len() {
            return self.attempt(context, now);
        }
        self.end_round(context, now)
    }

    fn end_round(mut self, context: &mut Context, now: Instant) -> Step {
        match self.verdict.take() {
            Some(Verdict::Refused(cause)) => {
                Error::enter_refused(cause, Recovery::Connect(self.membership), self.pace, context, now)
            }
            Some(Verdict::Untrusted(cause)) => {
                Error::enter(cause, Recovery::Connect(self.membership), self.pace, context, now)
            }
            Some(Verdict::Unreachable) | None => {
                let until = now + self.pace.quick.next(&mut context.rng);
                (State::Connecting(Self::idle(self.membership, 0, self.cause, until, self.pace)), Vec::new())
            }
        }
    }
}

impl Verdict {
    fn graver(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Refused(_), _) | (_, Self::Unreachable) => self,
            (Self::Untrusted(_), Self::Untrusted(_)) => self,
            _ => other,
        }
    }
}
