//! A gateway with an honest device, an enemy somewhere on the internet, and what an attack must not change.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    ops::{Deref, DerefMut},
    path::Path,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use m2m_lab::addresses::INTRANET_V4;
use m2m_lab::{ChildHandle, DeviceNode, Firewall, Lab, LabOptions, Node, Programs, wait_until};
use m2m_tests::{LIMIT, StandalonePage, shell};
use tokio::runtime::Runtime;

use crate::{
    gateway::{Gateway, Held},
    honest::{Figures, Work},
    peer::{Credentials, Tunnel},
};

/// Of the throughput before, the honest device keeps at least this share: attacker and tests compute on the gateway's processors. What
/// the machine itself takes away, from a thread that only sleeps and sends, does not count.
const SHARE: f64 = 0.5;
/// Half of the honest device's round trips take no longer. Measured: 0.5 to 1.5 ms, and up to 11 ms while two other programs compute.
const MEDIAN: Duration = Duration::from_millis(100);
/// 95 of 100 take no longer. Measured: 1.5 to 22 ms, and up to 325 ms while two other programs compute.
const P95: Duration = Duration::from_secs(1);
/// The honest device's connection is never silent for so long.
const GAP: Duration = Duration::from_secs(2);
/// Within this time another device has its tunnel, in the middle of the attack and after it.
const NEWCOMER: Duration = Duration::from_secs(2);
/// What the gateway keeps when an attack is over: what the allocator does not give back.
const REST: u64 = 24 << 20;
/// Ranges that the enemy sends from; no NAT is on their way.
const ENEMY_NETWORK: &str = "198.19.0.0/16";

/// An attack goes on for so long.
const LASTS: Duration = Duration::from_secs(3);

/// One for all tests: they measure, and do not share the processors.
static HOUSE: Mutex<Option<House>> = Mutex::new(None);

/// The honest device at work, and everything that an attack needs.
#[derive(Debug)]
pub(crate) struct Stage {
    work: Work,
    before: Figures,
    idle: Held,
    house: MutexGuard<'static, Option<House>>,
}

/// What the tests have in common.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) gateway: Gateway,
    pub(crate) enemy: Node,
    /// Of an enrolled device that has gone bad.
    pub(crate) credentials: Credentials,
    pub(crate) runtime: Runtime,
    newcomer: Credentials,
    vpnd: ChildHandle,
    device: DeviceNode,
    lab: Lab,
}

/// What an attack may cost while it lasts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    /// Bytes of memory, in addition.
    pub(crate) memory: u64,
    /// Open files, in addition.
    pub(crate) files: usize,
}

impl Stage {
    /// The honest device works, and it is known how well.
    pub(crate) fn set() -> Self {
        let mut house = HOUSE.lock().unwrap_or_else(|broken| {
            // A test that failed may have left anything.
            HOUSE.clear_poison();
            let mut house = broken.into_inner();
            *house = None;
            house
        });
        let inside = house.get_or_insert_with(House::build);
        let mut work = Work::start(&inside.device.node, &inside.lab.topology().company, INTRANET_V4.into());
        work.restart();
        let before = work.figures();
        let idle = inside.gateway.held();
        println!("before: {before}; gateway {} MB, {} files", idle.memory >> 20, idle.files);
        Self { work, before, idle, house }
    }

    /// As [`Stage::attack`], with what is done again and again for 3 s. How often it was done.
    pub(crate) fn attack_on(&mut self, name: &str, cost: Cost, mut attack: impl FnMut(&Self)) -> usize {
        self.attack(name, cost, |stage| {
            let (begin, mut times) = (Instant::now(), 0);
            while begin.elapsed() < LASTS {
                attack(stage);
                times += 1;
            }
            println!("{name}: {times} times");
            times
        })
    }

    /// Attacks, and checks what has become of gateway, honest device and newcomers meanwhile.
    pub(crate) fn attack<T>(&mut self, name: &str, cost: Cost, attack: impl FnOnce(&Self) -> T) -> T {
        self.work.restart();
        let begin = Instant::now();
        let (gave, most, newcomers) = {
            let (stage, is_over) = (&*self, AtomicBool::new(false));
            thread::scope(|scope| {
                let most = scope.spawn(|| stage.gateway.most_held(&is_over));
                let newcomers = scope.spawn(|| stage.newcomers(&is_over));
                // Whatever happens, the others have an end.
                let gave = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| attack(stage)));
                is_over.store(true, Ordering::Relaxed);
                let others = (most.join().unwrap(), newcomers.join().unwrap());
                let gave = gave.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                (gave, others.0, others.1)
            })
        };
        let (lasted, during) = (begin.elapsed(), self.work.figures());
        let memory = most.memory.saturating_sub(self.idle.memory);
        let files = most.files.saturating_sub(self.idle.files);
        let slowest = newcomers.iter().max().copied().unwrap_or_default();
        println!(
            "{name}: {:.1} s, {during}; gateway +{} MB, +{files} files; {} newcomers, slowest {} ms",
            lasted.as_secs_f64(),
            memory >> 20,
            newcomers.len(),
            slowest.as_millis()
        );

        self.gateway.process.must_run().unwrap();
        self.vpnd.must_run().unwrap();
        assert!(memory <= cost.memory, "{name}: the gateway took {memory} bytes");
        assert!(files <= cost.files, "{name}: the gateway opened {files} files");
        let ((ran, pause), (ran_before, _)) = (during.machine, self.before.machine);
        let share = during.throughput / self.before.throughput / (ran / ran_before).min(1.0);
        assert!(share >= SHARE, "{name}: {} before", self.before);
        assert!(during.median <= MEDIAN && during.p95 <= P95 + pause, "{name}: too slow");
        assert!(during.gap <= GAP + pause, "{name}: silence");
        assert!(!newcomers.is_empty(), "{name}: no newcomer came in");
        assert!(slowest <= NEWCOMER, "{name}: newcomers wait");
        gave
    }

    /// Everything is as it was before: the honest device's work comes to its end, and the gateway holds what it held.
    pub(crate) fn finish(self) {
        let is_back = || {
            let now = self.gateway.held();
            self.gateway.handshakes() == 0 && now.files <= self.idle.files && now.memory <= self.idle.memory + REST
        };
        let back = wait_until("the gateway to hold what it held", LIMIT, is_back);
        let now = self.gateway.held();
        println!("after: gateway {} MB, {} files", now.memory >> 20, now.files);
        assert!(back.is_ok(), "{now:?} after {:?}; {} handshakes", self.idle, self.gateway.handshakes());
        let took = self.runtime.block_on(self.newcomer());
        assert!(took <= NEWCOMER, "a newcomer waits for {took:?}");

        let log = self.vpnd.log();
        let ways = log.lines().filter(|line| line.contains("tunnel up through") || line.contains("tunnel moved"));
        assert_eq!(ways.count(), 1, "the honest device's tunnel is the first one:\n{log}");
        let sessions = self.gateway.sessions(HONEST);
        assert_eq!(sessions.len(), 1, "{sessions:?}");
        self.work.finish();
    }
}

impl Deref for Stage {
    type Target = House;

    fn deref(&self) -> &House {
        self.house.as_ref().unwrap()
    }
}

impl DerefMut for Stage {
    fn deref_mut(&mut self) -> &mut House {
        self.house.as_mut().unwrap()
    }
}

impl House {
    fn build() -> Self {
        let lab = Lab::start(LabOptions::default()).unwrap();
        let directory = lab.directory("hostile").unwrap();
        let page = StandalonePage::moved_to(directory.to_str().unwrap()).unwrap();
        let certificates = format!("{}{}", page.certificates, others(&page.certificates));
        shell(&lab.topology().gateway, &directory, &certificates).unwrap();
        let credentials = |name: &str| {
            let file = |suffix: &str| lab.outside(directory.join(format!("{name}.{suffix}")));
            Credentials::read(&file("pem"), &file("key"), &lab.outside(directory.join("ca.pem")))
        };
        let (bad, newcomer) = (credentials(ENEMY), credentials(NEWCOMER_NAME));

        let device = lab.plug(HONEST, Firewall::Open).unwrap();
        let enemy = lab.plug("enemy", Firewall::Open).unwrap();
        enemy.node.ip(&format!("route add local {ENEMY_NETWORK} dev lo")).unwrap();
        lab.topology().internet.ip(&format!("route add {ENEMY_NETWORK} via {}", enemy.v4)).unwrap();

        let gateway = start_gateway(&lab, &directory, &page.gateway_toml);
        let mut vpnd = start(&lab, &directory, &device.node, "vpnd", &page.vpnd_toml);
        vpnd.wait_for_log("-> Connected", LIMIT).unwrap();
        let (enemy, credentials, runtime) = (enemy.node, bad, Runtime::new().unwrap());
        Self { gateway, enemy, credentials, runtime, newcomer, vpnd, device, lab }
    }

    /// The company's host.
    pub(crate) fn company(&self) -> &Node {
        &self.lab.topology().company
    }

    /// Devices that come in, one after the other, until it is over; how long each took.
    fn newcomers(&self, is_over: &AtomicBool) -> Vec<Duration> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut pace = tokio::time::interval(Duration::from_millis(250));
            let mut took = Vec::new();
            while !is_over.load(Ordering::Relaxed) {
                pace.tick().await;
                took.push(self.newcomer().await);
            }
            took
        })
    }

    async fn newcomer(&self) -> Duration {
        let begin = Instant::now();
        let here = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let tunnel = Tunnel::open(&self.device.node, here, &self.newcomer, Default::default()).await;
        let took = begin.elapsed();
        tunnel.peer.close().await;
        took
    }
}

/// The honest device.
pub(crate) const HONEST: &str = "atm-0001";
/// The enrolled device that has gone bad.
pub(crate) const ENEMY: &str = "mallory";
const NEWCOMER_NAME: &str = "newcomer";

/// Commands that make certificates for the other devices as the page does for its own.
fn others(page: &str) -> String {
    let (_, device) = page.split_once("# The device").unwrap();
    let (_, commands) = device.split_once('\n').unwrap();
    let named = |name: &str| commands.replace(HONEST, name).replace("device.key", &format!("{name}.key"));
    let named = |name: &str| named(name).replace("device.pem", &format!("{name}.pem"));
    format!("\n{}\n{}\n", named(ENEMY), named(NEWCOMER_NAME))
}

fn start_gateway(lab: &Lab, directory: &Path, text: &str) -> Gateway {
    let node = lab.topology().gateway.clone();
    let mut process = start(lab, directory, &node, "m2m-gateway", text);
    let serving = node.wait_for_tcp(([127, 0, 0, 1], 9184));
    process.must_run().unwrap();
    serving.unwrap();
    Gateway { node, process }
}

fn start(lab: &Lab, directory: &Path, node: &Node, program: &str, text: &str) -> ChildHandle {
    let file = directory.join(format!("{program}.toml"));
    fs::write(lab.outside(&file), text).unwrap();
    let mut command = node.command(&Programs::find().unwrap().path(program).unwrap());
    node.spawn(program, command.arg("--config").arg(&file)).unwrap()
}
