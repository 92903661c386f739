//! What is reported: whatever is not as it was when it was reported the last time.

use std::time::Duration;

use super::link::LinkId;
use super::{Command, Life, Report, Roaming, Stall, Trouble};

/// What was reported, so that only changes are.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) active: Option<LinkId>,
    pub(super) stall: Option<(LinkId, Stall)>,
    pub(super) keepalive: Option<(LinkId, Duration)>,
    pub(super) is_asleep: bool,
    /// Why the last link ended.
    pub(super) loss: String,
}

impl Roaming {
    /// Which link is active: before anything that follows from it.
    pub(super) fn tell_active(&mut self) {
        let former = std::mem::replace(&mut self.told.active, self.active);
        match (former, self.active) {
            (None, Some(link)) => self.report(Report::Up { link }),
            (Some(from), Some(to)) if from != to => self.report(Report::Moved { from, to }),
            (Some(_), None) if self.life == Life::Awake => {
                let reason = self.told.loss.clone();
                self.report(Report::Down { reason });
            }
            _ => {}
        }
    }

    pub(super) fn tell(&mut self) {
        self.tell_stall();
        self.tell_keepalive();
        let is_asleep = self.life == Life::Asleep;
        let was_asleep = std::mem::replace(&mut self.told.is_asleep, is_asleep);
        if is_asleep && !was_asleep {
            self.report(Report::Asleep);
        }
    }

    fn tell_stall(&mut self) {
        let stall = match self.trouble_of_active() {
            Some(Trouble::Stranded) => Some(Stall::NoUplink),
            Some(Trouble::Silent) => Some(Stall::NoAnswer),
            _ => None,
        };
        let stall = self.active.zip(stall);
        let former = std::mem::replace(&mut self.told.stall, stall);
        match (former, stall) {
            (former, Some((link, stall))) if former != Some((link, stall)) => {
                self.report(Report::Stalled { link, stall });
            }
            (Some((link, _)), None) if self.active == Some(link) => self.report(Report::Resumed { link }),
            _ => {}
        }
    }

    fn tell_keepalive(&mut self) {
        let Some((link, way)) = self.active.zip(self.active_link().map(|link| link.way)) else {
            self.told.keepalive = None;
            return;
        };
        let interval = self.memory.keepalive(self.uplinks.network(way.uplink), way.transport).interval();
        if self.told.keepalive != Some((link, interval)) {
            self.told.keepalive = Some((link, interval));
            self.commands.push(Command::SetKeepalive { link, interval });
        }
    }

    pub(super) fn report(&mut self, report: Report) {
        self.commands.push(Command::Report(report));
    }
}
