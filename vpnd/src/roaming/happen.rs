//! What happened, noted where it belongs. What is to be done about it is decided afterwards.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::book::Change;
use super::link::{LinkId, Stage, Way};
use super::timing::{CONFIRM, PROBATION, SPREAD, YOUNG};
use super::uplink::UplinkId;
use super::{CloseReason, Command, Event, Life, Loss, Roaming, Transport, Trouble, Udp, Uplink};
use crate::state::ConnectFailure;

impl Roaming {
    pub(super) fn happen(&mut self, event: Event, now: Instant) {
        match event {
            Event::UplinksChanged(uplinks) => self.uplinks_changed(uplinks, now),
            Event::LinkUp { link, local } => self.link_up(link, local, now),
            Event::LinkFailed { link, failure } => self.link_failed(link, failure, now),
            Event::LinkLost { link, loss } => self.link_lost(link, &loss, now),
            Event::LinkSilent { link } => self.link_silent(link, now),
            Event::LinkAnswers { link } => self.link_answers(link, now),
            Event::LinkRebound { link, local } => self.link_rebound(link, local),
            Event::GoAway { link } => self.go_away(link, now),
            Event::KeepaliveAnswered { link, silence } => self.learn_keepalive(link, silence, true),
            Event::BindingLost { link, silence } => self.learn_keepalive(link, silence, false),
            Event::Traffic => self.traffic(now),
            Event::Idle if self.on_demand && self.life == Life::Awake => self.end(Life::Asleep, CloseReason::Idle),
            Event::Idle => {}
            Event::Stop => self.end(Life::Stopped, CloseReason::Stopped),
        }
    }

    fn uplinks_changed(&mut self, uplinks: Vec<Uplink>, now: Instant) {
        let changes = self.uplinks.update(uplinks, now);
        for change in &changes {
            match *change {
                Change::Gone(uplink) => self.close_attempts_over(uplink, now),
                Change::Came { id, formerly } => self.uplink_came(id, formerly, now),
                Change::Moved(uplink) => {
                    self.close_attempts_over(uplink, now);
                    self.follow_address(uplink, now);
                }
                Change::Grew(_) => {}
            }
        }
        for change in changes {
            if let Change::Came { id, .. } | Change::Moved(id) | Change::Grew(id) = change {
                self.try_besides(id, now);
            }
        }
    }

    fn uplink_came(&mut self, id: UplinkId, formerly: UplinkId, now: Instant) {
        for link in self.links.values_mut().filter(|link| link.way.uplink == formerly) {
            link.way.uplink = id;
        }
        let links: Vec<(LinkId, Transport)> = self.up_links_over(id);
        for (link, transport) in links {
            // Even with its old address: the interface was down, and the kernel may have closed what was bound to it.
            match transport {
                Transport::Http3 => self.rebind(link, id, now),
                Transport::Http2 if self.has_its_address(link) => self.probe(link, now),
                Transport::Http2 => self.set_silent(link),
            }
        }
    }

    fn follow_address(&mut self, uplink: UplinkId, now: Instant) {
        let links: Vec<(LinkId, Transport)> = self.up_links_over(uplink);
        for (link, transport) in links {
            match transport {
                _ if self.has_its_address(link) => {}
                Transport::Http3 => self.rebind(link, uplink, now),
                // A TCP connection lives and dies with its address.
                Transport::Http2 => self.set_silent(link),
            }
        }
    }

    fn up_links_over(&self, uplink: UplinkId) -> Vec<(LinkId, Transport)> {
        let links = self.links.iter().filter(|(_, link)| link.way.uplink == uplink && link.is_up());
        links.map(|(id, link)| (*id, link.way.transport)).collect()
    }

    /// Whether the address that the link comes from is still the uplink's. One that is not known is taken to be lost.
    fn has_its_address(&self, link: LinkId) -> bool {
        let Some(link) = self.links.get(&link) else { return false };
        let Stage::Up { local: Some(local), .. } = link.stage else { return false };
        self.uplinks.get(link.way.uplink).is_some_and(|entry| entry.uplink.addresses.contains(&local))
    }

    fn rebind(&mut self, link: LinkId, uplink: UplinkId, now: Instant) {
        self.commands.push(Command::Rebind { link, uplink });
        self.probe(link, now);
    }

    /// Asks for an answer, and soon takes its absence for silence.
    fn probe(&mut self, link: LinkId, now: Instant) {
        let Some(Stage::Up { is_silent, confirm_by, .. }) = self.links.get_mut(&link).map(|link| &mut link.stage)
        else {
            return;
        };
        *is_silent = false;
        *confirm_by = Some(now + CONFIRM);
        self.commands.push(Command::Probe { link });
    }

    fn set_silent(&mut self, link: LinkId) {
        let stage = self.links.get_mut(&link).map(|link| &mut link.stage);
        if let Some(Stage::Up { is_silent, confirm_by, .. }) = stage {
            *is_silent = true;
            *confirm_by = None;
        }
    }

    fn link_up(&mut self, id: LinkId, local: Option<IpAddr>, now: Instant) {
        let has_tunnel = self.trouble_of_active().is_none();
        let Some(link) = self.links.get_mut(&id).filter(|link| link.is_opening()) else { return };
        let way = link.way;
        if link.is_on_probation && has_tunnel {
            let stage =
                Stage::Proving { local, answers: 0, is_asked: false, probe_at: now, give_up_at: now + PROBATION };
            link.enter(stage, now);
        } else {
            link.enter(Stage::Up { local, is_silent: false, confirm_by: None }, now);
        }
        if let Some(entry) = self.uplinks.get_mut(way.uplink) {
            entry.retry.reset();
        }
        if let Some(gateway) = self.gateways.get_mut(way.gateway) {
            gateway.refusal.reset();
        }
        if way.transport == Transport::Http3 {
            self.note_udp(way.uplink, Udp::Works);
        }
    }

    fn link_failed(&mut self, id: LinkId, failure: ConnectFailure, now: Instant) {
        let Some(link) = self.links.get(&id).filter(|link| link.is_attempt()) else { return };
        let way = link.way;
        self.links.remove(&id);
        self.attempt_failed(way, failure, now);
    }

    fn link_lost(&mut self, id: LinkId, loss: &Loss, now: Instant) {
        let Some(link) = self.links.remove(&id) else { return };
        if link.is_attempt() {
            return self.attempt_failed(link.way, ConnectFailure::Unreachable(loss.reason().to_owned()), now);
        }
        if self.active != Some(id) {
            return;
        }
        self.active = None;
        self.told.loss = loss.reason().to_owned();
        if matches!(loss, Loss::ByGateway(_)) && !link.is_leaving {
            self.spread = SPREAD.mul_f64(self.rng.random_range(0.0..=1.0));
        }
    }

    fn link_silent(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get(&id) else { return };
        if link.is_proving() {
            let way = link.way;
            self.close(id, CloseReason::Unreliable);
            return self.attempt_failed(way, ConnectFailure::Unreachable("answers are missing".to_owned()), now);
        }
        self.set_silent(id);
    }

    fn link_answers(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        match &mut link.stage {
            Stage::Opening { .. } => {}
            Stage::Up { is_silent, confirm_by, .. } => {
                *is_silent = false;
                *confirm_by = None;
            }
            Stage::Proving { answers, is_asked, .. } => {
                if std::mem::take(is_asked) {
                    *answers += 1;
                }
                self.end_probation(id, now);
            }
        }
    }

    fn link_rebound(&mut self, id: LinkId, new: Option<IpAddr>) {
        if let Some(Stage::Up { local, .. }) = self.links.get_mut(&id).map(|link| &mut link.stage) {
            *local = new;
        }
    }

    fn go_away(&mut self, id: LinkId, now: Instant) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let way = link.way;
        if link.is_attempt() {
            self.close(id, CloseReason::GatewayLeaves);
            return self.attempt_failed(way, leaves(), now);
        }
        link.is_leaving = true;
        if self.active != Some(id) || self.gateways.len() < 2 {
            return;
        }
        // Attempts at the same gateway lead nowhere.
        self.close_where(CloseReason::GatewayLeaves, |_, _, link| link.is_attempt() && link.way.gateway == way.gateway);
    }

    fn learn_keepalive(&mut self, id: LinkId, silence: Duration, is_answered: bool) {
        let Some(link) = self.links.get(&id).filter(|link| link.is_up()) else { return };
        let network = self.uplinks.network(link.way.uplink).to_owned();
        self.memory.learn(&network, link.way.transport, |keepalive| match is_answered {
            true => keepalive.answered(silence),
            false => keepalive.lost(silence),
        });
    }

    fn traffic(&mut self, now: Instant) {
        if !self.on_demand {
            return;
        }
        if self.life == Life::Asleep {
            self.life = Life::Awake;
        }
        // Somebody waits, so a long wait is cut short; not more often than in a young outage.
        if let Some(outage) = &mut self.outage
            && outage.trouble == Trouble::Gone
            && now.saturating_duration_since(outage.last_round) >= YOUNG.1
        {
            outage.next_round = outage.next_round.map(|next| next.min(now));
        }
    }

    fn end(&mut self, life: Life, reason: CloseReason) {
        self.life = life;
        self.active = None;
        self.outage = None;
        self.target = None;
        self.search.clear();
        self.close_where(reason, |_, _, _| true);
    }

    fn close_attempts_over(&mut self, uplink: UplinkId, now: Instant) {
        let over: Vec<(LinkId, Way)> = self
            .links
            .iter()
            .filter(|(_, link)| link.is_attempt() && link.way.uplink == uplink)
            .map(|(id, link)| (*id, link.way))
            .collect();
        for (id, way) in over {
            self.close(id, CloseReason::UplinkGone);
            self.attempt_failed(way, ConnectFailure::Unreachable("the uplink is gone".to_owned()), now);
        }
    }

    /// Notes what an attempt that is over has shown, and lets the next one begin.
    pub(super) fn attempt_failed(&mut self, way: Way, failure: ConnectFailure, now: Instant) {
        let is_unreachable = matches!(failure, ConnectFailure::Unreachable(_));
        if let Some(active) = self.active_link().map(|link| link.way) {
            let is_beside = (way.uplink, way.gateway) == (active.uplink, active.gateway);
            let http2_works = active.transport == Transport::Http2 && self.trouble_of_active().is_none();
            if is_unreachable && way.transport == Transport::Http3 && is_beside && http2_works {
                self.note_udp(way.uplink, Udp::Dead);
            }
            if active.uplink != way.uplink
                && let Some(entry) = self.uplinks.get_mut(way.uplink)
            {
                entry.retry.put_off(&mut self.rng, now);
            }
        }
        if matches!(failure, ConnectFailure::Refused(_)) {
            self.search.skip_gateway(way.gateway);
            if let Some(gateway) = self.gateways.get_mut(way.gateway) {
                gateway.refusal.put_off(&mut self.rng, now);
            }
        }
        let is_own_fault = matches!(failure, ConnectFailure::Identity(_) | ConnectFailure::Expired(_));
        if is_own_fault && self.active.is_none() {
            self.search.skip_all();
            self.close_where(CloseReason::GivenUp, |_, _, link| link.is_attempt());
        }
        self.search.note(way.gateway, failure);
        self.search.hurry(now);
    }

    pub(super) fn note_udp(&mut self, uplink: UplinkId, udp: Udp) {
        let network = self.uplinks.network(uplink).to_owned();
        if self.memory.udp(&network) != udp {
            self.memory.set_udp(&network, udp);
        }
    }
}

fn leaves() -> ConnectFailure {
    ConnectFailure::Unreachable("the gateway is going down".to_owned())
}
