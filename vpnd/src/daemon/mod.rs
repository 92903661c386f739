//! The daemon: feeds the state machine, and does what it says.
//!
//! | room | what it does |
//! |---|---|
//! | [`device`](self) | what the tasks share: identity, network, board |
//! | `look` | reads files and store, opens the TPM and the key |
//! | `admission` | enrols |
//! | `tunnel` | opens a tunnel and keeps it until it ends |
//! | `tasks` | one attempt at a time, each after the former one has cleaned up |
//! | `service` | what systemd is told |

mod admission;
mod device;
mod look;
mod service;
mod tasks;
mod tunnel;
mod watched_key;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use m2m_protocol::config_file;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::api::{Board, Server, Word};
use crate::clock::Clock;
use crate::config::Config;
use crate::state::{Event, Machine, StateName};
use crate::store::Store;

use device::Device;
use service::Service;
use tasks::Tasks;

/// How often the clock is saved.
const SAVE_CLOCK: Duration = Duration::from_secs(60 * 60);

/// Runs until SIGTERM or SIGINT, and leaves the machine's network as it was.
///
/// # Errors
/// A configuration, state directory or socket that cannot be used. Whatever goes wrong later is a state, and no end.
pub async fn run(config_path: &Path) -> anyhow::Result<()> {
    let config: Config = config_file::load(config_path)?;
    let store = Store::open(&config.state_dir).context("the state directory cannot be used")?;
    let clock = Clock::open(store.clock_file(), config.clock_floor);
    let board = Arc::new(Board::default());
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    let server = Server::bind(&config.socket)
        .with_context(|| format!("the local API cannot listen on {}", config.socket.display()))?;
    let (words, mut words_said) = mpsc::channel(8);
    let api = tokio::spawn(server.serve(Arc::clone(&board), words));
    let mut service = Service::ready();
    log::info!("started, listening on {}", config.socket.display());

    let (device, mut uplinks) = Device::new(config, store, clock, Arc::clone(&board));
    let device = Arc::new(device);
    let (events, mut events_seen) = mpsc::channel(32);
    let (machine, commands) = Machine::start(rand::random(), Instant::now());
    let mut daemon =
        Daemon { tasks: Tasks::new(Arc::clone(&device), events), machine, board, last: StateName::NotProvisioned };
    daemon.tasks.obey(commands);
    let mut save_clock = interval(SAVE_CLOCK);
    save_clock.set_missed_tick_behavior(MissedTickBehavior::Delay);

    loop {
        let deadline = daemon.machine.poll_timeout();
        tokio::select! {
            Some(event) = events_seen.recv() => daemon.happened(event, &service),
            Some(word) = words_said.recv() => daemon.told(word, &service),
            () = at(deadline) => daemon.time_reached(&service),
            Ok(()) = uplinks.changed() => daemon.happened(Event::UplinkChanged, &service),
            () = service.watchdog_due() => service.ping(),
            _ = save_clock.tick() => device.clock.save(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }

    log::info!("stopping");
    service.stopping();
    daemon.tasks.end().await;
    device.close_network().await;
    device.clock.save();
    api.abort();
    Ok(())
}

/// The state machine with its hands.
struct Daemon {
    machine: Machine,
    tasks: Tasks,
    board: Arc<Board>,
    last: StateName,
}

impl Daemon {
    fn happened(&mut self, event: Event, service: &Service) {
        self.step(service, |machine, now| machine.handle(event, now));
    }

    fn told(&mut self, word: Word, service: &Service) {
        let (event, noted) = match word {
            Word::Connect(noted) => (Event::Connect, noted),
            Word::Disconnect(noted) => (Event::Disconnect, noted),
        };
        log::info!("told to {}", if event == Event::Connect { "connect" } else { "disconnect" });
        self.happened(event, service);
        // Whoever asked may have gone.
        let _ = noted.send(());
    }

    fn time_reached(&mut self, service: &Service) {
        self.step(service, Machine::handle_timeout);
    }

    fn step(&mut self, service: &Service, step: impl FnOnce(&mut Machine, Instant) -> Vec<crate::state::Command>) {
        let cause_before = self.machine.state().cause();
        let commands = step(&mut self.machine, Instant::now());
        let state = self.machine.state();
        let (name, cause) = (state.name(), state.cause());
        self.board.set_state(state);
        if name != self.last || cause != cause_before {
            service.status(name, cause.as_deref());
        }
        match (name == self.last, &cause) {
            (false, Some(cause)) => log::info!("state: {} -> {name}: {cause}", self.last),
            (false, None) => log::info!("state: {} -> {name}", self.last),
            (true, Some(cause)) if cause_before.as_ref() != Some(cause) => log::info!("{name}: {cause}"),
            (true, _) => {}
        }
        self.last = name;
        self.tasks.obey(commands);
        if !matches!(name, StateName::Connecting | StateName::Connected | StateName::Standby) {
            self.tasks.take_down_interface();
        }
    }
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
