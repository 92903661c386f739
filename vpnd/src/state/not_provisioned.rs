//! The device does not know yet where it belongs.

use std::time::{Duration, Instant};

use super::{Command, Context, Enrolling, Error, Event, Found, HUNG, LookFailure, Pace, Phase, Recovery, State, Step};

/// A wrong file is looked at again after this long: somebody may have mended it.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// No usable first-boot file or configuration, or not looked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotProvisioned {
    cause: String,
    phase: Phase,
}

impl NotProvisioned {
    /// What is wrong with the file, by line and field.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    pub(super) fn begin(context: &mut Context, now: Instant) -> Step {
        Self { cause: "starting".to_owned(), phase: Phase::Waiting { until: now } }.look(context, now)
    }

    pub(super) fn enter(cause: String, now: Instant) -> Step {
        (State::NotProvisioned(Self { cause, phase: Phase::Waiting { until: now + LOOK_AGAIN } }), Vec::new())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.phase.deadline()
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::Looked { attempt, result } if self.phase.is(attempt) => {
                proceed(result, Pace::default(), context, now)
            }
            _ => (State::NotProvisioned(self), Vec::new()),
        }
    }

    pub(super) fn on_timeout(self, context: &mut Context, now: Instant) -> Step {
        if self.phase.is_waiting() {
            return self.look(context, now);
        }
        let stop = self.phase.stop();
        let cause = "the TPM or the disk does not answer".to_owned();
        let (state, mut commands) = Error::enter(cause, Recovery::Look, Pace::default(), context, now);
        commands.splice(0..0, stop);
        (state, commands)
    }

    fn look(self, context: &mut Context, now: Instant) -> Step {
        let attempt = context.attempt();
        let phase = Phase::Running { attempt, deadline: now + HUNG };
        (State::NotProvisioned(Self { phase, ..self }), vec![Command::Look { attempt }])
    }
}

/// On from what a look at files, store and identity found, whichever state looked.
pub(super) fn proceed(result: Result<Found, LookFailure>, pace: Pace, context: &mut Context, now: Instant) -> Step {
    match result {
        Ok(Found::Member(membership)) => membership.enter(pace, context, now),
        Ok(Found::NotEnrolled { note }) => Enrolling::begin(note, pace, context, now),
        Err(LookFailure::Files(cause)) => NotProvisioned::enter(cause, now),
        Err(LookFailure::Unusable(cause)) => Error::enter(cause, Recovery::Look, pace, context, now),
        Err(LookFailure::ForeignKey(cause)) => Error::enter(cause, Recovery::EnrolAgain, pace, context, now),
    }
}
