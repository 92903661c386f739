//! Which ways are tried, in which order, and how soon one after the other.

use std::time::Duration;

use m2m_protocol::device_config::Transport as Wanted;

use super::link::Way;
use super::timing::{ATTEMPT_BETTER, HTTP2_LATER, NEXT_IN_LINE, NEXT_IN_LINE_AGAIN, SAME_AGAIN};
use super::uplink::UplinkId;
use super::{Transport, Trouble};

/// One attempt of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// When it is begun, counted from the plan's start.
    pub(super) after: Duration,
    /// It is not begun earlier than this, even if all before it has failed.
    pub(super) at_least: Duration,
    pub(super) way: Way,
}

/// An uplink as the plan needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub(super) uplink: UplinkId,
    pub(super) is_metered: bool,
    /// HTTP/2 starts beside HTTP/3.
    pub(super) udp_is_dead: bool,
    /// It comes and goes, and has to stay for this long first.
    pub(super) settled_in: Duration,
}

/// Makes plans.
#[derive(Debug)]
pub(super) struct Planner {
    pub(super) wanted: Wanted,
    /// The uplinks that are there, the best first.
    pub(super) lanes: Vec<Lane>,
    /// The gateways in the order in which to try them.
    pub(super) gateways: Vec<usize>,
}

impl Planner {
    /// There is no link: one uplink after the other, then the next gateway.
    pub(super) fn first(&self) -> Vec<Step> {
        self.all(NEXT_IN_LINE)
    }

    /// Everything has failed before.
    pub(super) fn again(&self) -> Vec<Step> {
        self.all(NEXT_IN_LINE_AGAIN)
    }

    /// The active link has this trouble, for the first time.
    pub(super) fn rescue(&self, trouble: Trouble, own: Way, jitter: Duration) -> Vec<Step> {
        match trouble {
            Trouble::Gone => self.first(),
            Trouble::Silent => self.silent(own),
            Trouble::Stranded => self.elsewhere(own, false),
            Trouble::Leaving => self.leaving(own, jitter),
        }
    }

    /// A better uplink: the gateway of the active link first, because it has the session.
    pub(super) fn over(&self, uplink: UplinkId) -> Vec<Step> {
        let mut steps = Vec::new();
        for lane in self.lanes.iter().filter(|lane| lane.uplink == uplink) {
            for (gateway, line) in self.gateways.iter().zip(0..) {
                let extra = if self.is_last_resort(*lane) { NEXT_IN_LINE } else { Duration::ZERO };
                self.pair(&mut steps, *lane, *gateway, NEXT_IN_LINE * line + extra, false);
            }
        }
        steps
    }

    /// HTTP/3 beside an HTTP/2 link over this uplink: to one gateway after the other has failed.
    pub(super) fn http3(&self, uplink: UplinkId) -> Vec<Step> {
        let step = |(gateway, line): (&usize, u32)| {
            let way = Way { uplink, gateway: *gateway, transport: Transport::Http3 };
            Step { after: ATTEMPT_BETTER * line, at_least: Duration::ZERO, way }
        };
        self.gateways.iter().zip(0..).map(step).collect()
    }

    fn all(&self, spacing: Duration) -> Vec<Step> {
        let mut steps = Vec::new();
        let ways = self.gateways.iter().flat_map(|gateway| self.lanes.iter().map(move |lane| (*gateway, *lane)));
        for ((gateway, lane), line) in ways.zip(0..) {
            // A metered uplink waits for those that are not, however often all have failed.
            let extra = if self.is_last_resort(lane) { NEXT_IN_LINE.saturating_sub(spacing) } else { Duration::ZERO };
            self.pair(&mut steps, lane, gateway, spacing * line + extra, false);
        }
        sorted(steps)
    }

    fn silent(&self, own: Way) -> Vec<Step> {
        let mut steps = self.elsewhere(own, true);
        for lane in self.lanes.iter().filter(|lane| lane.uplink == own.uplink) {
            for transport in [Transport::Http2, Transport::Http3] {
                let after = if transport == own.transport { SAME_AGAIN } else { Duration::ZERO };
                self.one(&mut steps, *lane, Way { transport, ..own }, after);
            }
        }
        sorted(steps)
    }

    /// All other uplinks at once, other gateways later.
    fn elsewhere(&self, own: Way, http3_first: bool) -> Vec<Step> {
        let mut steps = Vec::new();
        for (gateway, line) in self.gateways.iter().zip(0..) {
            for lane in &self.lanes {
                if (lane.uplink, *gateway) == (own.uplink, own.gateway) {
                    continue;
                }
                let extra = if self.is_last_resort(*lane) { NEXT_IN_LINE } else { Duration::ZERO };
                self.pair(&mut steps, *lane, *gateway, NEXT_IN_LINE * line + extra, !http3_first);
            }
        }
        sorted(steps)
    }

    /// Other gateways over the same uplink first; the one that leaves only where there is no other.
    fn leaving(&self, own: Way, jitter: Duration) -> Vec<Step> {
        let others: Vec<usize> = self.gateways.iter().copied().filter(|gateway| *gateway != own.gateway).collect();
        let (gateways, start) = match others.is_empty() {
            true => (vec![own.gateway], jitter),
            false => (others, Duration::ZERO),
        };
        let mut lanes = self.lanes.clone();
        lanes.sort_by_key(|lane| lane.uplink != own.uplink);
        let mut after = start;
        let mut steps = Vec::new();
        for gateway in gateways {
            for lane in &lanes {
                self.pair(&mut steps, *lane, gateway, after, false);
                after += NEXT_IN_LINE;
            }
        }
        for step in &mut steps {
            step.at_least = step.at_least.max(start);
        }
        steps
    }

    /// HTTP/3 and, a little later, HTTP/2.
    fn pair(&self, steps: &mut Vec<Step>, lane: Lane, gateway: usize, after: Duration, at_once: bool) {
        let alone = self.wanted != Wanted::Auto;
        let later = if at_once || alone || lane.udp_is_dead { Duration::ZERO } else { HTTP2_LATER };
        for (transport, later) in [(Transport::Http3, Duration::ZERO), (Transport::Http2, later)] {
            self.one(steps, lane, Way { uplink: lane.uplink, gateway, transport }, after + later);
        }
    }

    fn one(&self, steps: &mut Vec<Step>, lane: Lane, way: Way, after: Duration) {
        let is_wanted = match self.wanted {
            Wanted::Auto => true,
            Wanted::Http3 => way.transport == Transport::Http3,
            Wanted::Http2 => way.transport == Transport::Http2,
        };
        if is_wanted {
            steps.push(Step { after: after.max(lane.settled_in), at_least: lane.settled_in, way });
        }
    }

    fn is_last_resort(&self, lane: Lane) -> bool {
        lane.is_metered && self.lanes.iter().any(|lane| !lane.is_metered)
    }
}

fn sorted(mut steps: Vec<Step>) -> Vec<Step> {
    steps.sort_by_key(|step| step.after);
    steps
}

#[cfg(test)]
mod tests {
    use super::Transport::{Http2, Http3};
    use super::*;

    fn lane(uplink: u32) -> Lane {
        Lane { uplink: UplinkId(uplink), is_metered: false, udp_is_dead: false, settled_in: Duration::ZERO }
    }

    fn planner(lanes: &[Lane], gateways: &[usize]) -> Planner {
        Planner { wanted: Wanted::Auto, lanes: lanes.to_vec(), gateways: gateways.to_vec() }
    }

    fn way(uplink: u32, gateway: usize, transport: Transport) -> Way {
        Way { uplink: UplinkId(uplink), gateway, transport }
    }

    /// Milliseconds, uplink, gateway, transport.
    fn told(steps: &[Step]) -> Vec<(u128, u32, usize, Transport)> {
        steps.iter().map(|s| (s.after.as_millis(), s.way.uplink.0, s.way.gateway, s.way.transport)).collect()
    }

    #[test]
    fn the_start_takes_uplinks_then_gateways_in_turn() {
        let plan = planner(&[lane(2), lane(3)], &[0, 1]).first();
        let expected = [
            (0, 2, 0, Http3),
            (200, 2, 0, Http2),
            (1000, 3, 0, Http3),
            (1200, 3, 0, Http2),
            (2000, 2, 1, Http3),
            (2200, 2, 1, Http2),
            (3000, 3, 1, Http3),
            (3200, 3, 1, Http2),
        ];
        assert_eq!(told(&plan), expected);
    }

    #[test]
    fn a_second_round_is_quick_and_leaves_the_metered_one_for_last() {
        let metered = Lane { is_metered: true, ..lane(3) };
        let plan = planner(&[lane(2), metered], &[0]).again();
        assert_eq!(told(&plan), [(0, 2, 0, Http3), (200, 2, 0, Http2), (1000, 3, 0, Http3), (1200, 3, 0, Http2)]);
        let plan = planner(&[metered], &[0]).again();
        assert_eq!(told(&plan), [(0, 3, 0, Http3), (200, 3, 0, Http2)]);
    }

    #[test]
    fn only_what_is_wanted_is_tried_and_dead_udp_is_not_waited_for() {
        let dead = Lane { udp_is_dead: true, ..lane(2) };
        assert_eq!(told(&planner(&[dead], &[0]).first()), [(0, 2, 0, Http3), (0, 2, 0, Http2)]);
        let only = |wanted| told(&Planner { wanted, ..planner(&[lane(2)], &[0]) }.first());
        assert_eq!(only(Wanted::Http3), [(0, 2, 0, Http3)]);
        assert_eq!(only(Wanted::Http2), [(0, 2, 0, Http2)]);
    }

    #[test]
    fn a_silent_link_is_answered_on_all_sides() {
        let metered = Lane { is_metered: true, ..lane(4) };
        let planner = planner(&[lane(2), lane(3), metered], &[0, 1]);
        let plan = planner.rescue(Trouble::Silent, way(2, 0, Http3), Duration::ZERO);
        let expected = [
            (0, 3, 0, Http3),
            (0, 2, 0, Http2),
            (200, 3, 0, Http2),
            (300, 2, 0, Http3),
            (1000, 4, 0, Http3),
            (1000, 2, 1, Http3),
            (1000, 3, 1, Http3),
        ];
        assert_eq!(told(&plan)[..7], expected);
        // HTTP/2 that is silent has HTTP/3 beside it at once.
        let plan = planner.rescue(Trouble::Silent, way(2, 0, Http2), Duration::ZERO);
        assert!(told(&plan).contains(&(0, 2, 0, Http3)) && told(&plan).contains(&(300, 2, 0, Http2)));
    }

    #[test]
    fn without_carrier_all_other_uplinks_are_tried_at_once_with_both_transports() {
        let planner = planner(&[lane(3), lane(4)], &[1, 0]);
        let plan = planner.rescue(Trouble::Stranded, way(2, 1, Http3), Duration::ZERO);
        let at_once: Vec<_> = told(&plan).into_iter().filter(|step| step.0 == 0).collect();
        assert_eq!(at_once, [(0, 3, 1, Http3), (0, 3, 1, Http2), (0, 4, 1, Http3), (0, 4, 1, Http2)]);
    }

    #[test]
    fn a_gateway_that_leaves_is_followed_by_the_next_and_by_itself_only_if_it_is_the_only_one() {
        let jitter = Duration::from_millis(700);
        let plan = planner(&[lane(2)], &[1, 2, 0]).rescue(Trouble::Leaving, way(2, 0, Http3), jitter);
        assert_eq!(told(&plan), [(0, 2, 1, Http3), (200, 2, 1, Http2), (1000, 2, 2, Http3), (1200, 2, 2, Http2)]);
        let plan = planner(&[lane(2)], &[0]).rescue(Trouble::Leaving, way(2, 0, Http3), jitter);
        assert_eq!(told(&plan), [(700, 2, 0, Http3), (900, 2, 0, Http2)]);
    }
}
