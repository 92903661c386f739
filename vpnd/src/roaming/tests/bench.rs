//! The machine alone: each test says what happens, and reads what is to be done.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use m2m_protocol::device_config::Transport as Wanted;

use crate::roaming::{Command, Config, Event, LinkId, Loss, Memory, Report, Roaming, Uplink, UplinkId};
use crate::state::ConnectFailure;

/// The machine, its time, and what it said since that was looked at.
pub(super) struct Bench {
    pub(super) machine: Roaming,
    start: Instant,
    now: Instant,
    said: Vec<String>,
    pub(super) keepalives: Vec<(u64, Duration)>,
}

/// One gateway, no uplink, seed 1.
pub(super) fn config(uplinks: &[Uplink]) -> Config {
    Config {
        gateways: vec![0],
        transport: Wanted::Auto,
        on_demand: false,
        uplinks: uplinks.to_vec(),
        memory: Memory::default(),
    }
}

/// The uplinks of the tests: `eth0` before `wlan0` before the metered `wwan0`.
pub(super) fn uplink(name: &str) -> Uplink {
    let (id, priority) = match name {
        "eth0" => (2, 0),
        "wlan0" => (3, 1),
        "wwan0" => (4, 2),
        other => panic!("{other}"),
    };
    Uplink {
        id: UplinkId(id),
        name: name.to_owned(),
        priority,
        metered: name == "wwan0",
        metric: 0,
        addresses: vec![address(id, 7)],
        network: name.to_owned(),
    }
}

pub(super) fn uplinks(names: &[&str]) -> Vec<Uplink> {
    names.iter().map(|name| uplink(name)).collect()
}

pub(super) fn address(uplink: u32, host: u8) -> IpAddr {
    IpAddr::from([10, 0, u8::try_from(uplink).unwrap(), host])
}

pub(super) fn unreachable() -> ConnectFailure {
    ConnectFailure::Unreachable("no answer".to_owned())
}

impl Bench {
    pub(super) fn new(config: Config) -> Self {
        let now = Instant::now();
        let (machine, commands) = Roaming::new(config, 1, now);
        let mut bench = Self { machine, start: now, now, said: Vec::new(), keepalives: Vec::new() };
        bench.hear(commands);
        bench
    }

    /// A tunnel over `eth0` by HTTP/3, link 1; `uplinks` are there.
    pub(super) fn connected(config: Config) -> Self {
        let mut bench = Self::new(config);
        bench.up(1);
        bench.said.clear();
        bench
    }

    /// Goes on to this time, in milliseconds since the start, and to everything that is due until then.
    pub(super) fn at(&mut self, milliseconds: u64) {
        let until = self.start + Duration::from_millis(milliseconds);
        assert!(until >= self.now, "time does not go back");
        for _ in 0..10_000 {
            let Some(due) = self.machine.poll_timeout().filter(|due| *due <= until) else {
                self.now = until;
                return;
            };
            assert!(due >= self.now || self.now == self.start, "what was due was not done");
            self.now = self.now.max(due);
            let commands = self.machine.handle_timeout(self.now);
            self.hear(commands);
        }
        panic!("timers without end");
    }

    /// Goes on by this.
    pub(super) fn wait(&mut self, milliseconds: u64) {
        let now = self.milliseconds();
        self.at(now + milliseconds);
    }

    pub(super) fn milliseconds(&self) -> u64 {
        u64::try_from((self.now - self.start).as_millis()).unwrap()
    }

    pub(super) fn event(&mut self, event: Event) {
        let commands = self.machine.handle(event, self.now);
        self.hear(commands);
    }

    pub(super) fn uplinks(&mut self, names: &[&str]) {
        self.event(Event::UplinksChanged(uplinks(names)));
    }

    /// The link comes up, from the address `.7` of its uplink.
    pub(super) fn up(&mut self, link: u64) {
        let view = self.machine.view();
        let uplink = view.links.iter().find(|view| view.id == LinkId(link)).expect("the link is opening").uplink;
        self.event(Event::LinkUp { link: LinkId(link), local: Some(address(uplink.0, 7)) });
    }

    pub(super) fn failed(&mut self, link: u64, failure: ConnectFailure) {
        self.event(Event::LinkFailed { link: LinkId(link), failure });
    }

    pub(super) fn lost(&mut self, link: u64) {
        self.event(Event::LinkLost { link: LinkId(link), loss: Loss::ByPath("lost".to_owned()) });
    }

    pub(super) fn silent(&mut self, link: u64) {
        self.event(Event::LinkSilent { link: LinkId(link) });
    }

    pub(super) fn answers(&mut self, link: u64) {
        self.event(Event::LinkAnswers { link: LinkId(link) });
    }

    pub(super) fn go_away(&mut self, link: u64) {
        self.event(Event::GoAway { link: LinkId(link) });
    }

    /// All that was said since the last look: one line each, with the milliseconds since the start.
    pub(super) fn expect(&mut self, expected: &str) {
        let said = std::mem::take(&mut self.said);
        let expected: Vec<&str> = expected.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        assert_eq!(said, expected, "\nsaid:\n{}\n", said.join("\n"));
    }

    /// What was said since the last look.
    pub(super) fn said(&mut self) -> Vec<String> {
        std::mem::take(&mut self.said)
    }

    /// The time of the first line with `text` since the last look, waiting for it at most this long.
    pub(super) fn until_said(&mut self, text: &str, limit: u64) -> u64 {
        let end = self.milliseconds() + limit;
        loop {
            if let Some(line) = self.said().iter().find(|line| line.contains(text)) {
                return line.split(' ').next().unwrap().parse().unwrap();
            }
            let due = self.machine.poll_timeout().map(|due| u64::try_from((due - self.start).as_millis()).unwrap() + 1);
            let due =
                due.filter(|due| *due <= end).unwrap_or_else(|| panic!("{text:?} was not said within {limit} ms"));
            self.at(due.max(self.milliseconds()));
        }
    }

    fn hear(&mut self, commands: Vec<Command>) {
        let now = self.milliseconds();
        for command in commands {
            if let Command::SetKeepalive { link, interval } = command {
                self.keepalives.push((link.0, interval));
                continue;
            }
            self.said.push(format!("{now} {}", self.line(&command)));
        }
    }

    fn line(&self, command: &Command) -> String {
        match command {
            Command::Open { link, uplink, gateway, transport } => {
                let view = self.machine.view();
                let name = view.uplinks.iter().find(|view| view.id == *uplink).map_or("?", |view| view.name.as_str());
                format!("open {} {name} {gateway} {transport}", link.0)
            }
            Command::Activate { link } => format!("activate {}", link.0),
            Command::Close { link, reason } => format!("close {} {reason}", link.0),
            Command::Rebind { link, uplink } => format!("rebind {} {}", link.0, uplink.0),
            Command::Probe { link } => format!("probe {}", link.0),
            Command::SetKeepalive { link, interval } => format!("keepalive {} {interval:?}", link.0),
            Command::Report(report) => match report {
                Report::Up { link } => format!("up {}", link.0),
                Report::Moved { from, to } => format!("moved {} {}", from.0, to.0),
                Report::Stalled { link, stall } => format!("stalled {} {stall:?}", link.0),
                Report::Resumed { link } => format!("resumed {}", link.0),
                Report::Down { reason } => format!("down {reason}"),
                Report::Failed { gateway, failure } => format!("failed {gateway:?} {failure:?}"),
                Report::Asleep => "asleep".to_owned(),
            },
        }
    }
}
