//! What is over at a certain time.

use std::time::Instant;

use super::link::{LinkId, Stage};
use super::timing::{PROBE, PROBES};
use super::{CloseReason, Command, Roaming};
use crate::state::ConnectFailure;

impl Roaming {
    pub(super) fn pass_time(&mut self, now: Instant) {
        let due: Vec<LinkId> = self
            .links
            .iter()
            .filter(|(_, link)| link.deadline().is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for id in due {
            self.link_due(id, now);
        }
    }

    /// A link that has proven itself is used like any other.
    pub(super) fn end_probation(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Stage::Proving { local, answers, .. } = link.stage
            && answers >= PROBES
        {
            link.enter(Stage::Up { local, is_silent: false, confirm_by: None }, now);
        }
    }

    fn link_due(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let way = link.way;
        match &mut link.stage {
            Stage::Opening { .. } => {
                self.close(id, CloseReason::TimedOut);
                self.attempt_failed(way, ConnectFailure::Unreachable("no answer in time".to_owned()), now);
            }
            Stage::Proving { give_up_at, .. } if *give_up_at <= now => {
                self.close(id, CloseReason::Unreliable);
                self.attempt_failed(way, ConnectFailure::Unreachable("answers are missing".to_owned()), now);
            }
            Stage::Proving { probe_at, is_asked, .. } => {
                *probe_at = now + PROBE;
                *is_asked = true;
                self.commands.push(Command::Probe { link: id });
            }
            Stage::Up { is_silent, confirm_by, .. } => {
                if confirm_by.is_some_and(|limit| limit <= now) {
                    *confirm_by = None;
                    *is_silent = true;
                }
                if link.retire_at.is_some_and(|end| end <= now) {
                    self.close(id, CloseReason::Replaced);
                }
            }
        }
    }
}
