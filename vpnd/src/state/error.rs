//! Something is wrong that somebody has to know of.

use std::time::{Duration, Instant};

use super::not_provisioned::proceed;
use super::{
    Command, Connecting, Context, Disconnected, Enrolling, Event, HUNG, LookFailure, Membership, Pace, Phase, State,
    Step,
};

/// A device that finds itself with another TPM says so for this long before it asks to be let in anew.
const SAY_SO: Duration = Duration::from_secs(5);

/// Says what is wrong, and tries again by itself: nobody sits at the machine to press a button.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    cause: String,
    recovery: Recovery,
    phase: Phase,
    pace: Pace,
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recovery {
    /// Everything from the start: files, TPM, key.
    Look,
    /// The exchange with the manager.
    Enrol {
        /// Why it was begun.
        note: Option<String>,
    },
    /// The exchange with the manager, because what is stored belongs to another TPM; the cause is its note.
    EnrolAgain,
    /// The gateways.
    Connect(Membership),
}

impl Error {
    /// What is wrong.
    #[must_use]
    pub fn cause(&self) -> &str {
        &self.cause
    }

    pub(super) fn enter(
        cause: String,
        recovery: Recovery,
        mut pace: Pace,
        context: &mut Context,
        now: Instant,
    ) -> Step {
        let wait = match recovery {
            Recovery::EnrolAgain => SAY_SO,
            _ => pace.quick.next(&mut context.rng),
        };
        (State::Error(Self { cause, recovery, phase: Phase::Waiting { until: now + wait }, pace }), Vec::new())
    }

    /// As [`Error::enter`], where only a decision of somebody else can change the outcome.
    pub(super) fn enter_refused(
        cause: String,
        recovery: Recovery,
        mut pace: Pace,
        context: &mut Context,
        now: Instant,
    ) -> Step {
        let until = now + pace.slow.next(&mut context.rng);
        (State::Error(Self { cause, recovery, phase: Phase::Waiting { until }, pace }), Vec::new())
    }

    pub(super) fn deadline(&self) -> Instant {
        self.phase.deadline()
    }

    pub(super) fn handle(self, event: Event, context: &mut Context, now: Instant) -> Step {
        match event {
            Event::Looked { attempt, result } if self.phase.is(attempt) => proceed(result, self.pace, context, now),
            Event::Connect if self.phase.is_waiting() => self.recover(context, now),
            Event::Disconnect => match self.recovery {
                Recovery::Connect(membership) => Disconnected::enter(membership, self.pace),
                _ => (State::Error(self), Vec::new()),
            },
            _ => (State::Error(self), Vec::new()),
        }
    }

    pub(super) fn on_timeout(self, context: &mut Context, now: Instant) -> Step {
        if self.phase.is_waiting() {
            return self.recover(context, now);
        }
        let stop = self.phase.stop();
        let hung = Err(LookFailure::Unusable("the TPM or the disk does not answer".to_owned()));
        let (state, mut commands) = proceed(hung, self.pace, context, now);
        commands.splice(0..0, stop);
        (state, commands)
    }

    fn recover(self, context: &mut Context, now: Instant) -> Step {
        match self.recovery {
            Recovery::Look => {
                // The state stays: it would be no help to see it come and go with each look at a TPM that is not there.
                let attempt = context.attempt();
                let phase = Phase::Running { attempt, deadline: now + HUNG };
                (State::Error(Self { phase, ..self }), vec![Command::Look { attempt }])
            }
            Recovery::Enrol { note } => Enrolling::begin(note, self.pace, context, now),
            Recovery::EnrolAgain => Enrolling::begin(Some(self.cause), self.pace, context, now),
            Recovery::Connect(membership) => Connecting::begin(membership, self.pace, context, now),
        }
    }
}
