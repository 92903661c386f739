//! Whatever happens, in whatever order: what holds at each moment, and what comes of it in the end.

use std::time::{Duration, Instant};

use m2m_protocol::device_config::Transport as Wanted;
use proptest::prelude::*;

use super::world::{GatewayState, MS, SECOND, World};
use crate::roaming::link::Way;
use crate::roaming::{Command, Config, Event, LinkId, Memory, Report, Roaming};

const MINUTE: Duration = Duration::from_secs(60);
/// How long a tunnel may be missing while a way works, in an outage of less than ten minutes.
const SOON: Duration = Duration::from_secs(14);
/// As [`SOON`], in any outage: up to a minute's wait.
const AT_LAST: Duration = Duration::from_secs(80);
/// Three uplinks, three gateways, two transports: 16 attempts at once, and the links that are up.
const MOST_LINKS: usize = 20;

#[derive(Debug, Clone)]
enum Happening {
    UplinkGoes(usize),
    UplinkComes { uplink: usize, with_another_address: bool },
    AddressChanges(usize),
    Flaps { uplink: usize, times: u8 },
    Udp(usize, bool),
    Tcp(usize, bool),
    Gateway(usize, GatewayState),
    GatewayRestarts(usize),
    Milliseconds(u64),
    Seconds(u64),
    Minutes(u64),
    Idle,
    Traffic,
}

fn happening() -> impl Strategy<Value = Happening> {
    use GatewayState::{Dark, Drains, Refuses, Stopped, Works};
    let uplink = 0usize..3;
    let gateway = 0usize..3;
    prop_oneof![
        2 => uplink.clone().prop_map(Happening::UplinkGoes),
        3 => (uplink.clone(), any::<bool>())
            .prop_map(|(uplink, with_another_address)| Happening::UplinkComes { uplink, with_another_address }),
        1 => uplink.clone().prop_map(Happening::AddressChanges),
        1 => (uplink.clone(), 2u8..12).prop_map(|(uplink, times)| Happening::Flaps { uplink, times }),
        3 => (uplink.clone(), any::<bool>()).prop_map(|(uplink, works)| Happening::Udp(uplink, works)),
        2 => (uplink, any::<bool>()).prop_map(|(uplink, works)| Happening::Tcp(uplink, works)),
        4 => (gateway.clone(), prop_oneof![3 => Just(Works), 1 => Just(Stopped), 1 => Just(Dark), 1 => Just(Drains), 1 => Just(Refuses)])
            .prop_map(|(gateway, state)| Happening::Gateway(gateway, state)),
        1 => gateway.prop_map(Happening::GatewayRestarts),
        6 => (0u64..2000).prop_map(Happening::Milliseconds),
        4 => (2u64..60).prop_map(Happening::Seconds),
        1 => (1u64..25).prop_map(Happening::Minutes),
        1 => Just(Happening::Idle),
        1 => Just(Happening::Traffic),
    ]
}

struct Model {
    machine: Roaming,
    world: World,
    now: Instant,
    /// What the reports say.
    reported: Option<LinkId>,
    is_asleep: bool,
    /// When the tunnel worked last, or was not wanted.
    last_well: Instant,
    /// When the world changed last.
    changed: Instant,
    /// A gateway that refuses is left in peace for up to half an hour.
    refused: [Option<Instant>; 3],
    commands: Vec<Instant>,
    happenings: Vec<Instant>,
}

impl Model {
    fn new(seed: u64, on_demand: bool, priorities: &[u16]) -> Self {
        let now = Instant::now();
        let world = World::new(priorities, now);
        let config = Config {
            gateways: priorities.to_vec(),
            transport: Wanted::Auto,
            on_demand,
            uplinks: world.told(),
            memory: Memory::default(),
        };
        let (machine, commands) = Roaming::new(config, seed, now);
        let mut model = Self {
            machine,
            world,
            now,
            reported: None,
            is_asleep: false,
            last_well: now,
            changed: now,
            refused: [None; 3],
            commands: Vec::new(),
            happenings: Vec::new(),
        };
        model.obey(commands);
        model
    }

    fn obey(&mut self, commands: Vec<Command>) {
        let mut news = Vec::new();
        for command in commands {
            self.commands.push(self.now);
            match command {
                Command::Open { link, uplink, gateway, transport } => {
                    assert!(!self.world.links.contains_key(&link), "{link:?} is opened twice");
                    assert!(self.world.told().iter().any(|told| told.id == uplink), "opened over what is not there");
                    self.world.open(link, Way { uplink, gateway, transport }, self.now);
                    assert!(self.world.links.len() <= MOST_LINKS, "{} links", self.world.links.len());
                }
                Command::Activate { link } => {
                    assert!(self.world.is_up(link), "{link:?} is not up");
                    self.world.active = Some(link);
                }
                Command::Close { link, .. } => {
                    assert_ne!(self.world.active, Some(link), "the active link is closed");
                    assert!(self.world.links.remove(&link).is_some(), "{link:?} is not there");
                }
                Command::Rebind { link, .. } => {
                    assert!(self.world.is_up(link));
                    news.push(self.world.rebind(link, self.now));
                }
                Command::Probe { link } => {
                    assert!(self.world.is_up(link));
                    self.world.probe(link, self.now);
                }
                Command::SetKeepalive { link, .. } => assert_eq!(self.world.active, Some(link)),
                Command::Report(report) => self.reported(report),
            }
        }
        for event in news {
            self.tell(event);
        }
        self.check();
    }

    fn reported(&mut self, report: Report) {
        match report {
            Report::Up { link } => assert_eq!(self.reported.replace(link), None),
            Report::Moved { from, to } => assert_eq!(self.reported.replace(to), Some(from)),
            Report::Down { .. } => assert!(self.reported.take().is_some()),
            Report::Stalled { link, .. } | Report::Resumed { link } => assert_eq!(self.world.active, Some(link)),
            Report::Failed { .. } => assert_eq!(self.world.active, None),
            Report::Asleep => {
                self.is_asleep = true;
                self.reported = None;
            }
        }
    }

    fn check(&mut self) {
        assert_eq!(self.reported, self.world.active);
        assert_eq!(self.machine.view().active, self.world.active);
        let view = self.machine.view();
        let known: Vec<LinkId> = view.links.iter().map(|link| link.id).collect();
        assert_eq!(known, self.world.links.keys().copied().collect::<Vec<_>>());
        if self.is_asleep {
            assert!(self.world.links.is_empty() && self.machine.poll_timeout().is_none());
            self.last_well = self.now;
        }
        if self.world.active_and_well().is_some() {
            self.last_well = self.now;
        }
        let missing = self.now - self.last_well;
        let young = missing < 10 * MINUTE;
        let patience = if young { SOON } else { AT_LAST };
        let works = |way: Way, since: Instant| {
            let asked = self.refused[way.gateway].map_or(since, |refused| since.max(refused + 31 * MINUTE));
            self.now.saturating_duration_since(asked) > patience
        };
        let ready = self.world.working_ways().into_iter().find(|(way, since)| works(*way, *since));
        assert!(
            missing <= patience || ready.is_none(),
            "no tunnel for {missing:?} although {ready:?} works\n{}",
            self.describe()
        );
    }

    /// For a failure.
    fn describe(&self) -> String {
        let age = |since: Instant| self.now.saturating_duration_since(since);
        let view = self.machine.view();
        let mut text = format!("{:?}, active {:?}\n", view.phase, view.active);
        for link in &view.links {
            let way = (link.uplink.0 - 2, link.gateway, link.transport);
            text += &format!("{:?} {way:?} {:?} since {:?}\n", link.id, link.state, age(link.since));
        }
        for uplink in &self.world.uplinks {
            let (present, udp, tcp) = (uplink.is_present, uplink.udp, uplink.tcp);
            text += &format!("uplink: present {present}, udp {udp}, tcp {tcp} since {:?}\n", age(uplink.since));
        }
        for gateway in &self.world.gateways {
            text += &format!("gateway {}: {:?} since {:?}\n", gateway.priority, gateway.state, age(gateway.since));
        }
        text
    }

    fn tell(&mut self, event: Event) {
        self.world.told_event(&event, self.now);
        let commands = self.machine.handle(event, self.now);
        self.obey(commands);
    }

    /// Lets the world and the machine go on by this.
    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        let mut at_this_moment = 0;
        loop {
            let of_world = self.world.next();
            let of_machine = self.machine.poll_timeout();
            let next = of_world.iter().map(|(time, _)| *time).chain(of_machine).min();
            let Some(next) = next.filter(|next| *next <= until) else { break };
            at_this_moment = if next > self.now { 0 } else { at_this_moment + 1 };
            assert!(at_this_moment < 50, "nothing goes on: {}", self.describe());
            self.now = self.now.max(next);
            match of_world {
                Some((time, event)) if time <= next => {
                    if let Event::LinkFailed { link, failure: crate::state::ConnectFailure::Refused(_) } = &event {
                        self.refused[self.world.links[link].way.gateway] = Some(self.now);
                    }
                    self.tell(event);
                }
                _ => {
                    let commands = self.machine.handle_timeout(self.now);
                    self.obey(commands);
                }
            }
        }
        self.now = until;
        self.check();
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Milliseconds(count) => return self.wait(MS * u32::try_from(count).unwrap()),
            Happening::Seconds(count) => return self.wait(Duration::from_secs(count)),
            Happening::Minutes(count) => return self.wait(MINUTE * u32::try_from(count).unwrap()),
            Happening::Flaps { uplink, times } => {
                for _ in 0..times {
                    self.happen(Happening::UplinkGoes(uplink));
                    self.wait(700 * MS);
                    self.happen(Happening::UplinkComes { uplink, with_another_address: false });
                    self.wait(1300 * MS);
                }
                return;
            }
            _ => {}
        }
        self.happenings.push(self.now);
        match happening {
            Happening::UplinkGoes(uplink) => self.change_uplink(uplink, |uplink| uplink.is_present = false),
            Happening::UplinkComes { uplink, with_another_address } => self.change_uplink(uplink, |uplink| {
                uplink.is_present = true;
                uplink.host = if with_another_address { uplink.host % 200 + 1 } else { uplink.host };
            }),
            Happening::AddressChanges(uplink) => {
                self.change_uplink(uplink, |uplink| uplink.host = uplink.host % 200 + 1);
            }
            Happening::Udp(uplink, works) => self.change_uplink(uplink, |uplink| uplink.udp = works),
            Happening::Tcp(uplink, works) => self.change_uplink(uplink, |uplink| uplink.tcp = works),
            Happening::Gateway(gateway, state) if gateway < self.world.gateways.len() => {
                self.change_gateway(gateway, state);
            }
            Happening::GatewayRestarts(gateway) if gateway < self.world.gateways.len() => {
                self.change_gateway(gateway, GatewayState::Stopped);
                self.wait(SECOND);
                self.change_gateway(gateway, GatewayState::Works);
            }
            Happening::Idle => {
                let commands = self.machine.handle(Event::Idle, self.now);
                // The active link, too, is closed: nobody needs it.
                if commands.contains(&Command::Report(Report::Asleep)) {
                    self.world.active = None;
                    self.reported = None;
                }
                self.obey(commands);
            }
            Happening::Traffic => {
                self.is_asleep = false;
                self.tell(Event::Traffic);
            }
            _ => {}
        }
    }

    fn change_uplink(&mut self, place: usize, change: impl FnOnce(&mut super::world::SimUplink)) {
        let uplink = &mut self.world.uplinks[place];
        let before = (uplink.is_present, uplink.udp, uplink.tcp, uplink.host);
        change(uplink);
        if before != (uplink.is_present, uplink.udp, uplink.tcp, uplink.host) {
            uplink.since = self.now;
            self.changed = self.now;
            self.world.refresh(self.now);
            let told = self.world.told();
            self.tell(Event::UplinksChanged(told));
        }
    }

    fn change_gateway(&mut self, place: usize, state: GatewayState) {
        let gateway = &mut self.world.gateways[place];
        let former = std::mem::replace(&mut gateway.state, state);
        if former == state {
            return;
        }
        if matches!(former, GatewayState::Dark | GatewayState::Stopped | GatewayState::Drains) {
            gateway.starts += 1;
        }
        gateway.since = self.now;
        self.changed = self.now;
        self.world.refresh(self.now);
        if state == GatewayState::Drains {
            for link in self.world.links_to(place) {
                if self.world.is_up(link) {
                    self.tell(Event::GoAway { link });
                }
            }
            self.wait(10 * SECOND);
            self.change_gateway(place, GatewayState::Stopped);
        }
    }

    /// The most commands of any minute, beyond those that happenings explain.
    fn busiest_minute(&self) -> i64 {
        let within = |times: &[Instant], start: Instant| {
            let from = times.partition_point(|time| *time < start);
            let to = times.partition_point(|time| *time < start + MINUTE);
            i64::try_from(to - from).unwrap()
        };
        let excess = |start: &Instant| {
            within(&self.commands, *start)
                - 40 * within(&self.happenings, *start - MINUTE / 2)
                - 40 * within(&self.happenings, *start)
        };
        self.commands.iter().map(excess).max().unwrap_or(0)
    }
}

proptest! {
    #[test]
    fn whatever_happens(
        seed in any::<u64>(),
        on_demand in proptest::bool::weighted(0.2),
        priorities in prop_oneof![Just(vec![0u16]), Just(vec![0, 1]), Just(vec![0, 0, 1])],
        happenings in proptest::collection::vec(happening(), 1..80),
    ) {
        let mut model = Model::new(seed, on_demand, &priorities);
        for happening in happenings {
            model.happen(happening);
        }
        model.happen(Happening::Traffic);
        // With all at rest, the best of what works is found, and then nothing moves any more.
        model.wait(100 * MINUTE);
        let best = model.world.working_ways().into_iter().map(|(way, _)| model.world.rank(way)).min();
        let chosen = model.world.active_and_well().map(|way| model.world.rank(way));
// A link that was up before its gateway began to refuse is as good as ever.
        prop_assert!(
            best.is_none_or(|best| chosen.is_some_and(|chosen| chosen <= best)),
            "{chosen:?} in place of {best:?}\n{}",
            model.describe()
        );
        let busiest = model.busiest_minute();
        prop_assert!(busiest <= 500, "{} commands in a minute", busiest);
        let before = (model.commands.len(), model.world.active);
        model.wait(100 * MINUTE);
        let later = model.commands.len() - before.0;
        if best.is_some() {
            prop_assert_eq!(model.world.active, before.1);
            // HTTP/3, gateways and uplinks that do not work are still asked for, ever more rarely.
            prop_assert!(later <= 100 * 10, "{later} commands in 100 minutes of rest");
        }
    }
}
