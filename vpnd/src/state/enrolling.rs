//! The device asks the manager to be let in.

use std::time::Instant;

use super::{
    Admission, Command, Context, EnrolFailure, Error, Event, HUNG, Pace, PendingApproval, Phase, Recovery, State, Step,
};

/// An exchange with the manager runs, or the next one waits after a failure that may pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolling {
    /// Why this device enrols although it was enrolled before.
    note: Option<String>,
    failure: Option<String>,
    phase: Phase,
    pace: Pace,
}

impl Enrolling {
    /// Why it enrols again, and what went wrong the last time.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        join(self.note.as_deref(), self.failure.as_deref())
    }

    pub(super) fn begin(note: Option<String>, pace: Pace, context: &mut Context, now: Instant) -> Step {
        Self { note, failure: None, phase: Phase::Waiting { until: now }, pace }.ask(context, now)
    }

    pub(super) fn deadline(&self) -> Instant {
        self.phase.deadline()
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::Enrolment { attempt, result } if self.phase.is(attempt) => self.ended(result, context, now),
            Event::UplinkChanged if self.phase.is_waiting() => self.ask(context, now),
            _ => (State::Enrolling(self), Vec::new()),
        }
    }

    pub(super) fn on_timeout(self, context: &mut Context, now: Instant) -> Step {
        if self.phase.is_waiting() {
            return self.ask(context, now);
        }
        let stop = self.phase.stop();
        let (state, mut commands) = self.retry("the enrolment did not end in time".to_owned(), context, now);
        commands.splice(0..0, stop);
        (state, commands)
    }

    fn ended(self, result: Result<Admission, EnrolFailure>, context: &mut Context, now: Instant) -> Step {
        let note = self.note.clone();
        match result {
            Ok(Admission::Member(membership)) => membership.enter(Pace::default(), context, now),
            Ok(Admission::Pending { reason, retry_after }) => PendingApproval::enter(note, reason, retry_after, now),
            Err(EnrolFailure::Passing(cause)) => self.retry(cause, context, now),
            Err(EnrolFailure::Untrusted(cause)) => {
                Error::enter(cause, Recovery::Enrol { note }, self.pace, context, now)
            }
            Err(EnrolFailure::Refused(cause)) => {
                Error::enter_refused(cause, Recovery::Enrol { note }, self.pace, context, now)
            }
            Err(EnrolFailure::Identity(cause)) => Error::enter(cause, Recovery::Look, self.pace, context, now),
        }
    }

    fn ask(self, context: &mut Context, now: Instant) -> Step {
        let attempt = context.attempt();
        let phase = Phase::Running { attempt, deadline: now + HUNG };
        (State::Enrolling(Self { phase, ..self }), vec![Command::Enrol { attempt }])
    }

    fn retry(mut self, failure: String, context: &mut Context, now: Instant) -> Step {
        let until = now + self.pace.quick.next(&mut context.rng);
        (State::Enrolling(Self { failure: Some(failure), phase: Phase::Waiting { until }, ..self }), Vec::new())
    }
}

/// Two causes in one line.
pub(super) fn join(first: Option<&str>, second: Option<&str>) -> Option<String> {
    match (first, second) {
        (Some(first), Some(second)) => Some(format!("{first}; {second}")),
        (one, other) => one.or(other).map(ToOwned::to_owned),
    }
}
