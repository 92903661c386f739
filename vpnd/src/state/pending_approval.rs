//! The device proved its TPM, and an administrator has to let it in.

use std::time::{Duration, Instant};

use super::enrolling::join;
use super::{Admission, Command, Context, EnrolFailure, Error, Event, HUNG, Pace, Phase, Recovery, State, Step};

/// Never asks more often than this, whatever the manager says.
const SHORTEST: Duration = Duration::from_secs(1);
/// Never asks less often than this, whatever the manager says.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// Asks again when the manager said, and stays in this state while it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingApproval {
    note: Option<String>,
    reason: String,
    phase: Phase,
    pace: Pace,
}

impl PendingApproval {
    /// The manager's reason, or why it could not be asked again.
    #[must_use]
    pub fn cause(&self) -> String {
        join(self.note.as_deref(), Some(&self.reason)).unwrap_or_default()
    }

    pub(super) fn enter(note: Option<String>, reason: String, retry_after: Duration, now: Instant) -> Step {
        let until = now + retry_after.clamp(SHORTEST, LONGEST);
        let state = Self { note, reason, phase: Phase::Waiting { until }, pace: Pace::default() };
        (State::PendingApproval(state), Vec::new())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.phase.deadline()
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::Enrolment { attempt, result } if self.phase.is(attempt) => self.ended(result, context, now),
            _ => (State::PendingApproval(self), Vec::new()),
        }
    }

    pub(super) fn on_timeout(self, context: &mut Context, now: Instant) -> Step {
        if self.phase.is_waiting() {
            let attempt = context.attempt();
            let phase = Phase::Running { attempt, deadline: now + HUNG };
            return (State::PendingApproval(Self { phase, ..self }), vec![Command::Enrol { attempt }]);
        }
        let stop = self.phase.stop();
        let (state, mut commands) = self.retry(context, now);
        commands.splice(0..0, stop);
        (state, commands)
    }

    fn ended(self, result: Result<Admission, EnrolFailure>, context: &mut Context, now: Instant) -> Step {
        let note = self.note.clone();
        match result {
            Ok(Admission::Member(membership)) => membership.enter(Pace::default(), context, now),
            Ok(Admission::Pending { reason, retry_after }) => Self::enter(note, reason, retry_after, now),
            Err(EnrolFailure::Passing(_)) => self.retry(context, now),
            Err(EnrolFailure::Untrusted(cause)) => {
                Error::enter(cause, Recovery::Enrol { note }, self.pace, context, now)
            }
            Err(EnrolFailure::Refused(cause)) => {
                Error::enter_refused(cause, Recovery::Enrol { note }, self.pace, context, now)
            }
            Err(EnrolFailure::Identity(cause)) => Error::enter(cause, Recovery::Look, self.pace, context, now),
        }
    }

    /// The manager cannot be reached for now: as far as the device knows, it is still pending.
    fn retry(mut self, context: &mut Context, now: Instant) -> Step {
        let until = now + self.pace.quick.next(&mut context.rng);
        (State::PendingApproval(Self { phase: Phase::Waiting { until }, ..self }), Vec::new())
    }
}
