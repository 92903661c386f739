#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

fn tunnel(gateways: &[(&str, u16)], mode: Mode) -> TunnelConfig {
    let gateways: Vec<_> = gateways
        .iter()
        .map(|(origin, priority)| serde_json::json!({ "origin": origin, "priority": priority }))
        .collect();
    let mode = serde_json::to_value(mode).unwrap();
    serde_json::from_value(serde_json::json!({ "gateway": gateways, "mode": mode })).unwrap()
}

fn member(mode: Mode) -> Membership {
    Membership::new(&tunnel(&[("https://b.example", 2), ("https://a.example", 1)], mode), true)
}

/// The machine with its surroundings: the time, and the attempts that run.
struct Bench {
    machine: Machine,
    now: Instant,
    running: Vec<Command>,
}

impl Bench {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let (machine, commands) = Machine::start(seed, now);
        let mut bench = Self { machine, now, running: Vec::new() };
        bench.obey(commands);
        bench
    }

    fn obey(&mut self, commands: Vec<Command>) {
        for command in commands {
            match command {
                Command::Stop { attempt } => {
                    let before = self.running.len();
                    self.running.retain(|running| id(running) != attempt);
                    assert_eq!(self.running.len() + 1, before, "stopped what does not run");
                }
                begun => {
                    assert!(self.running.is_empty(), "{begun:?} begins while {:?} runs", self.running);
                    self.running.push(begun);
                }
            }
        }
    }

    fn event(&mut self, event: Event) -> StateName {
        let commands = self.machine.handle(event, self.now);
        self.obey(commands);
        self.name()
    }

    fn wait(&mut self, time: Duration) -> StateName {
        self.now += time;
        let commands = self.machine.handle_timeout(self.now);
        self.obey(commands);
        self.name()
    }

    /// Goes to the next deadline; how far that was.
    fn wait_for_deadline(&mut self) -> Duration {
        let wait = self.machine.poll_timeout().unwrap().saturating_duration_since(self.now);
        self.wait(wait);
        wait
    }

    fn name(&self) -> StateName {
        self.machine.state().name()
    }

    fn running(&self) -> &Command {
        self.running.first().expect("something runs")
    }

    fn looked(&mut self, result: Result<Found, LookFailure>) -> StateName {
        let Command::Look { attempt } = self.running.remove(0) else { panic!("no look runs") };
        self.event(Event::Looked { attempt, result })
    }

    fn enrolled(&mut self, result: Result<Admission, EnrolFailure>) -> StateName {
        let Command::Enrol { attempt } = self.running.remove(0) else { panic!("no enrolment runs") };
        self.event(Event::Enrolment { attempt, result })
    }

    fn tunnel_up(&mut self) -> StateName {
        let attempt = id(self.running());
        self.event(Event::TunnelUp { attempt, gateway: 0 })
    }

    fn tunnel_failed(&mut self, failure: ConnectFailure) -> StateName {
        let Command::Connect { attempt } = self.running.remove(0) else { panic!("no connect runs") };
        self.event(Event::TunnelFailed { attempt, failure })
    }

    fn tunnel_down(&mut self) -> StateName {
        let attempt = id(self.running());
        self.event(Event::TunnelDown { attempt, reason: "lost".to_owned() })
    }

    fn trouble(&mut self, gateway: Option<usize>) -> StateName {
        let attempt = id(self.running());
        self.event(Event::TunnelTrouble { attempt, gateway, cause: "no answer".to_owned() })
    }

    fn gateway(&self) -> String {
        self.machine.state().gateway().expect("a gateway").to_string()
    }
}

fn id(command: &Command) -> Attempt {
    match command {
        Command::Look { attempt }
        | Command::Enrol { attempt }
        | Command::Connect { attempt }
        | Command::Stop { attempt } => *attempt,
    }
}

fn unreachable() -> ConnectFailure {
    ConnectFailure::Unreachable("no answer".to_owned())
}

#[test]
fn a_new_machine_enrols_and_connects() {
    let mut bench = Bench::new(1);
    assert_eq!(bench.name(), StateName::NotProvisioned);
    assert_eq!(bench.looked(Ok(Found::NotEnrolled { note: None })), StateName::Enrolling);
    assert_eq!(bench.enrolled(Ok(Admission::Member(member(Mode::AlwaysOn)))), StateName::Connecting);
    assert_eq!(bench.gateway(), "https://a.example");
    assert_eq!(bench.tunnel_up(), StateName::Connected);
    assert_eq!(bench.machine.poll_timeout(), None);
    assert_eq!(bench.machine.state().gateway().unwrap().to_string(), "https://a.example");
}

#[test]
fn a_wrong_first_boot_file_is_looked_at_again() {
    let mut bench = Bench::new(1);
    let cause = "first-boot.toml:3: manager.url: expected an origin".to_owned();
    assert_eq!(bench.looked(Err(LookFailure::Files(cause.clone()))), StateName::NotProvisioned);
    assert_eq!(bench.machine.state().cause(), Some(cause));
    assert_eq!(bench.wait(Duration::from_secs(10)), StateName::NotProvisioned);
    assert_eq!(bench.looked(Ok(Found::NotEnrolled { note: None })), StateName::Enrolling);
}

#[test]
fn a_pending_device_asks_again_when_told_and_does_not_flap() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::NotEnrolled { note: None }));
    let pending = Admission::Pending { reason: "unknown EK".to_owned(), retry_after: Duration::from_secs(30) };
    assert_eq!(bench.enrolled(Ok(pending.clone())), StateName::PendingApproval);
    assert_eq!(bench.machine.state().cause(), Some("unknown EK".to_owned()));
    bench.wait(Duration::from_secs(29));
    assert!(bench.running.is_empty());
    assert_eq!(bench.wait(Duration::from_secs(1)), StateName::PendingApproval);
    assert_eq!(bench.enrolled(Err(EnrolFailure::Passing("manager is down".to_owned()))), StateName::PendingApproval);
    bench.wait_for_deadline();
    assert_eq!(bench.enrolled(Ok(Admission::Member(member(Mode::AlwaysOn)))), StateName::Connecting);
}

#[test]
fn a_disk_with_another_tpm_says_so_and_enrols_again() {
    let mut bench = Bench::new(1);
    let cause = "the key does not belong to this TPM".to_owned();
    assert_eq!(bench.looked(Err(LookFailure::ForeignKey(cause.clone()))), StateName::Error);
    assert_eq!(bench.machine.state().cause(), Some(cause));
    assert_eq!(bench.wait(Duration::from_secs(5)), StateName::Enrolling);
    assert!(matches!(bench.running(), Command::Enrol { .. }));
    assert!(bench.machine.state().cause().unwrap().contains("does not belong to this TPM"));
    let pending = Admission::Pending { reason: "another EK".to_owned(), retry_after: MINUTE };
    assert_eq!(bench.enrolled(Ok(pending)), StateName::PendingApproval);
    let cause = bench.machine.state().cause().unwrap();
    assert!(cause.contains("does not belong to this TPM") && cause.contains("another EK"), "{cause}");
}

#[test]
fn a_missing_tpm_is_an_error_until_it_is_there() {
    let mut bench = Bench::new(1);
    for _ in 0..20 {
        assert_eq!(bench.looked(Err(LookFailure::Unusable("no TPM".to_owned()))), StateName::Error);
        assert!(bench.wait_for_deadline() <= MINUTE);
        assert_eq!(bench.name(), StateName::Error);
    }
    assert_eq!(bench.looked(Ok(Found::Member(member(Mode::AlwaysOn)))), StateName::Connecting);
}

#[test]
fn an_attempt_goes_on_for_ever_and_says_what_is_wrong() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::Member(member(Mode::AlwaysOn))));
    for gateway in [0, 1, 0, 1] {
        assert_eq!(bench.trouble(Some(gateway)), StateName::Connecting);
        let name = ["https://a.example", "https://b.example"][gateway];
        assert_eq!(bench.machine.state().cause().unwrap(), format!("{name}: no answer"));
        assert_eq!(bench.gateway(), name);
    }
    assert_eq!(bench.trouble(None), StateName::Connecting);
    assert_eq!(bench.machine.state().cause().unwrap(), "no answer");
    assert_eq!(bench.machine.poll_timeout(), None);
    assert_eq!(bench.tunnel_up(), StateName::Connected);
}

#[test]
fn a_refused_device_says_so_and_asks_rarely() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::Member(member(Mode::AlwaysOn))));
    for round in 0..10 {
        assert_eq!(bench.tunnel_failed(ConnectFailure::Refused("403".to_owned())), StateName::Error);
        assert!(bench.machine.state().cause().unwrap().contains("403"));
        let wait = bench.wait_for_deadline();
        assert!(wait >= MINUTE / 2 && wait <= 30 * MINUTE, "{wait:?} in round {round}");
        assert_eq!(bench.name(), StateName::Connecting);
    }
}

#[test]
fn an_expired_certificate_is_renewed_by_enrolling_again() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::Member(member(Mode::AlwaysOn))));
    assert_eq!(bench.tunnel_failed(ConnectFailure::Expired("expired".to_owned())), StateName::Enrolling);
    assert_eq!(bench.enrolled(Ok(Admission::Member(member(Mode::AlwaysOn)))), StateName::Connecting);
}

#[test]
fn a_tunnel_that_is_lost_is_looked_for_by_the_same_attempt() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::Member(member(Mode::AlwaysOn))));
    bench.tunnel_up();
    let attempt = id(bench.running());
    assert_eq!(bench.event(Event::TunnelMoved { attempt, gateway: 1 }), StateName::Connected);
    assert_eq!(bench.gateway(), "https://b.example");
    assert_eq!(bench.tunnel_down(), StateName::Connecting);
    assert!(bench.machine.state().cause().unwrap().contains("lost"));
    assert_eq!(id(bench.running()), attempt);
    assert_eq!(bench.tunnel_up(), StateName::Connected);
    // Revoked, while it was up.
    assert_eq!(bench.tunnel_failed(ConnectFailure::Refused("revoked".to_owned())), StateName::Error);
}

#[test]
fn a_tunnel_that_nobody_uses_stands_by() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::Member(member(Mode::OnDemand))));
    bench.tunnel_up();
    let attempt = id(bench.running());
    assert_eq!(bench.event(Event::TunnelAsleep { attempt }), StateName::Standby);
    assert_eq!(bench.trouble(Some(0)), StateName::Connecting);
    assert_eq!(bench.event(Event::TunnelAsleep { attempt }), StateName::Standby);
    assert_eq!(bench.tunnel_up(), StateName::Connected);
    bench.event(Event::TunnelAsleep { attempt });
    assert_eq!(bench.event(Event::Disconnect), StateName::Disconnected);
    assert!(bench.running.is_empty());
}

#[test]
fn the_last_word_decides() {
    let mut bench = Bench::new(1);
    bench.looked(Ok(Found::Member(member(Mode::Manual))));
    assert_eq!(bench.name(), StateName::Disconnected);
    assert_eq!(bench.event(Event::Connect), StateName::Connecting);
    assert_eq!(bench.tunnel_up(), StateName::Connected);
    assert_eq!(bench.event(Event::Disconnect), StateName::Disconnected);
    assert!(bench.running.is_empty());

    let mut bench = Bench::new(1);
    bench.event(Event::Disconnect);
    bench.looked(Ok(Found::NotEnrolled { note: None }));
    assert_eq!(bench.enrolled(Ok(Admission::Member(member(Mode::AlwaysOn)))), StateName::Disconnected);
}

#[test]
fn an_attempt_that_hangs_is_given_up() {
    let mut bench = Bench::new(1);
    bench.wait_for_deadline();
    assert_eq!(bench.name(), StateName::Error);
    bench.wait_for_deadline();
    bench.looked(Ok(Found::NotEnrolled { note: None }));
    bench.wait_for_deadline();
    assert_eq!(bench.name(), StateName::Enrolling);
    assert!(bench.running.is_empty());
    bench.wait_for_deadline();
    assert!(matches!(bench.running(), Command::Enrol { .. }));
}

#[test]
fn names_are_read_in_any_spelling() {
    for text in ["PendingApproval", "pending-approval", "PENDING_APPROVAL"] {
        assert_eq!(text.parse(), Ok(StateName::PendingApproval));
    }
    assert!("connectd".parse::<StateName>().unwrap_err().contains("Connected"));
}

/// One thing that the surroundings do; what does not fit the moment is left out.
#[derive(Debug, Clone)]
enum Happening {
    Answer(u8),
    TunnelUp,
    TunnelDown,
    TunnelMoved(usize),
    TunnelAsleep,
    Trouble,
    Stale(u64, u8),
    Connect,
    Disconnect,
    UplinkChanged,
    Wait(u64),
    WaitForDeadline,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => any::<u8>().prop_map(Happening::Answer),
        2 => Just(Happening::TunnelUp),
        1 => Just(Happening::TunnelDown),
        1 => (0usize..2).prop_map(Happening::TunnelMoved),
        1 => Just(Happening::TunnelAsleep),
        1 => Just(Happening::Trouble),
        1 => (0u64..50, any::<u8>()).prop_map(|(attempt, kind)| Happening::Stale(attempt, kind)),
        1 => Just(Happening::Connect),
        1 => Just(Happening::Disconnect),
        1 => Just(Happening::UplinkChanged),
        2 => (0u64..200_000).prop_map(Happening::Wait),
        4 => Just(Happening::WaitForDeadline),
    ]
}

fn look_result(kind: u8) -> Result<Found, LookFailure> {
    let why = || "why".to_owned();
    match kind % 7 {
        0 => Ok(Found::NotEnrolled { note: None }),
        1 => Err(LookFailure::Files(why())),
        2 => Err(LookFailure::Unusable(why())),
        3 => Err(LookFailure::ForeignKey(why())),
        4 => Ok(Found::Member(member(Mode::Manual))),
        _ => Ok(Found::Member(member(Mode::AlwaysOn))),
    }
}

fn enrol_result(kind: u8) -> Result<Admission, EnrolFailure> {
    let why = || "why".to_owned();
    match kind % 8 {
        0 => Err(EnrolFailure::Passing(why())),
        1 => Err(EnrolFailure::Untrusted(why())),
        2 => Err(EnrolFailure::Refused(why())),
        3 => Err(EnrolFailure::Identity(why())),
        4 => Ok(Admission::Pending { reason: why(), retry_after: Duration::from_secs(u64::from(kind) * 1000) }),
        5 => Ok(Admission::Member(member(Mode::Manual))),
        _ => Ok(Admission::Member(member(Mode::AlwaysOn))),
    }
}

fn connect_failure(kind: u8) -> ConnectFailure {
    let why = || "why".to_owned();
    match kind % 7 {
        0 => ConnectFailure::Untrusted(why()),
        1 => ConnectFailure::Refused(why()),
        2 => ConnectFailure::Expired(why()),
        3 => ConnectFailure::Identity(why()),
        4 => ConnectFailure::Local(why()),
        _ => unreachable(),
    }
}

fn answer_to(command: &Command, kind: u8) -> Event {
    match command.clone() {
        Command::Look { attempt } => Event::Looked { attempt, result: look_result(kind) },
        Command::Enrol { attempt } => Event::Enrolment { attempt, result: enrol_result(kind) },
        Command::Connect { attempt } | Command::Stop { attempt } => {
            Event::TunnelFailed { attempt, failure: connect_failure(kind) }
        }
    }
}

fn stale(attempt: Attempt, kind: u8) -> Event {
    match kind % 5 {
        0 => Event::Looked { attempt, result: look_result(kind) },
        1 => Event::Enrolment { attempt, result: enrol_result(kind) },
        2 => Event::TunnelFailed { attempt, failure: connect_failure(kind) },
        3 => Event::TunnelUp { attempt, gateway: 0 },
        _ => Event::TunnelDown { attempt, reason: "late".to_owned() },
    }
}

impl Bench {
    fn happen(&mut self, happening: Happening) {
        let tunnel = matches!(self.running.first(), Some(Command::Connect { .. }));
        let up = self.name() == StateName::Connected;
        match happening {
            Happening::Answer(kind) if !up && !self.running.is_empty() => {
                let event = answer_to(&self.running.remove(0), kind);
                self.event(event);
            }
            Happening::TunnelUp if tunnel && !up => {
                assert_eq!(self.tunnel_up(), StateName::Connected);
            }
            Happening::TunnelDown if up => {
                assert_eq!(self.tunnel_down(), StateName::Connecting);
            }
            Happening::TunnelMoved(gateway) if up => {
                let attempt = id(self.running());
                assert_eq!(self.event(Event::TunnelMoved { attempt, gateway }), StateName::Connected);
            }
            Happening::TunnelAsleep if tunnel => {
                let attempt = id(self.running());
                assert_eq!(self.event(Event::TunnelAsleep { attempt }), StateName::Standby);
            }
            Happening::Trouble if tunnel && !up => {
                assert_eq!(self.trouble(None), StateName::Connecting);
            }
            Happening::Stale(attempt, kind) if !self.running.iter().any(|running| id(running) == Attempt(attempt)) => {
                let before = self.machine.state().clone();
                self.event(stale(Attempt(attempt), kind));
                assert_eq!(&before, self.machine.state(), "old news changed the state");
            }
            Happening::Connect => {
                self.event(Event::Connect);
                assert_ne!(self.name(), StateName::Disconnected);
            }
            Happening::Disconnect => {
                let enrolled =
                    matches!(self.name(), StateName::Connecting | StateName::Connected | StateName::Disconnected);
                self.event(Event::Disconnect);
                assert!(!enrolled || self.name() == StateName::Disconnected);
                assert!(!self.running.iter().any(|running| matches!(running, Command::Connect { .. })));
            }
            Happening::UplinkChanged => {
                self.event(Event::UplinkChanged);
            }
            Happening::Wait(milliseconds) => {
                self.wait(Duration::from_millis(milliseconds));
            }
            Happening::WaitForDeadline if self.machine.poll_timeout().is_some() => {
                self.wait_for_deadline();
            }
            _ => {}
        }
    }

    fn check(&self, wanted: Option<bool>) {
        let tunnel = matches!(self.running.first(), Some(Command::Connect { .. }));
        assert!(self.running.len() <= 1);
        assert!(!(tunnel && wanted == Some(false)), "a tunnel against the last word");
        match self.name() {
            StateName::Connected | StateName::Standby => assert!(tunnel && self.machine.poll_timeout().is_none()),
            StateName::Connecting if tunnel => assert_eq!(self.machine.poll_timeout(), None),
            StateName::Disconnected => assert!(self.running.is_empty() && self.machine.poll_timeout().is_none()),
            _ => {
                let wait = self.machine.poll_timeout().expect("a deadline").saturating_duration_since(self.now);
                assert!(wait <= 60 * MINUTE, "waits {wait:?}");
                // Nothing runs, so the deadline is what goes on; it may lie in the past only until it is polled.
                assert!(!self.running.is_empty() || wait > Duration::ZERO || self.machine.state().gateway().is_none());
            }
        }
        assert_eq!(self.machine.state().gateway().is_some(), tunnel && self.name() != StateName::Standby);
    }
}

proptest! {
    #[test]
    fn whatever_happens_in_whatever_order(
        seed in any::<u64>(),
        happenings in proptest::collection::vec(happening(), 1..200),
    ) {
        let mut bench = Bench::new(seed);
        let mut wanted = None;
        for happening in happenings {
            match happening {
                Happening::Connect => wanted = Some(true),
                Happening::Disconnect => wanted = Some(false),
                _ => {}
            }
            bench.happen(happening);
            bench.check(wanted);
        }
        // From anywhere, with a world that works and the word to connect, the tunnel comes up in a bounded number of steps.
        bench.event(Event::Connect);
        for _ in 0..20 {
            match bench.running.first() {
                Some(Command::Look { .. }) => { bench.looked(Ok(Found::Member(member(Mode::AlwaysOn)))); }
                Some(Command::Enrol { .. }) => { bench.enrolled(Ok(Admission::Member(member(Mode::AlwaysOn)))); }
                Some(Command::Connect { .. }) if bench.name() == StateName::Connected => break,
                Some(_) => { bench.tunnel_up(); }
                None => { bench.wait_for_deadline(); }
            }
        }
        prop_assert_eq!(bench.name(), StateName::Connected);
    }
}
