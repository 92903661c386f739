//! What the device is doing, as a state machine without I/O.
//!
//! The daemon feeds [`Event`]s and the time, carries out the [`Command`]s that come back, and calls
//! [`Machine::handle_timeout`] when [`Machine::poll_timeout`] is reached. Whatever takes time (looking at the files, enrolling,
//! a tunnel) is an attempt with a number of its own: one runs at a time, and news of any other is ignored. The attempt at a tunnel goes on
//! for as long as a tunnel is wanted; which gateway and which uplink it takes, and when it tries again, is decided by
//! [`Roaming`](crate::roaming::Roaming).
//!
//! ```text
//!  NotProvisioned --files good--> Enrolling --let in--> Connecting <--> Connected <--> Standby
//!        ^                         |    ^                |     ^
//!        '--files wrong            v    | approved?      v     | connect
//!                            PendingApproval           Disconnected
//!
//!  Error: from any of them when somebody has to know; it tries again by itself.
//! ```

mod backoff;
mod connected;
mod connecting;
mod disconnected;
mod enrolling;
mod error;
mod not_provisioned;
mod pending_approval;
mod standby;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use m2m_protocol::device_config::{Mode, TunnelConfig};
use m2m_protocol::names::HttpsOrigin;
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde::{Deserialize, Serialize};

pub use backoff::{Backoff, Pace};
pub use connected::Connected;
pub use connecting::Connecting;
pub use disconnected::Disconnected;
pub use enrolling::Enrolling;
pub use error::{Error, Recovery};
pub use not_provisioned::NotProvisioned;
pub use pending_approval::PendingApproval;
pub use standby::Standby;

/// The state machine.
#[derive(Debug)]
pub struct Machine {
    /// Always `Some` between two calls.
    state: Option<State>,
    context: Context,
}

impl Machine {
    /// A machine that knows nothing yet, and what to do first. `seed` makes the jitter of this device.
    #[must_use]
    pub fn start(seed: u64, now: Instant) -> (Self, Vec<Command>) {
        let mut context = Context { word: None, rng: StdRng::seed_from_u64(seed), attempts: 0 };
        let (state, commands) = NotProvisioned::begin(&mut context, now);
        (Self { state: Some(state), context }, commands)
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> &State {
        #[expect(clippy::expect_used, reason = "only `step` takes the state out, and puts one back")]
        self.state.as_ref().expect("a state")
    }

    /// Takes in what happened and says what to do.
    pub fn handle(&mut self, event: Event, now: Instant) -> Vec<Command> {
        match event {
            Event::Connect => self.context.word = Some(Word::Connect),
            Event::Disconnect => self.context.word = Some(Word::Disconnect),
            _ => {}
        }
        self.step(|state, context| match state {
            State::NotProvisioned(state) => state.handle(event, context, now),
            State::Enrolling(state) => state.handle(event, context, now),
            State::PendingApproval(state) => state.handle(event, context, now),
            State::Disconnected(state) => state.handle(&event, context, now),
            State::Connecting(state) => state.handle(event, context, now),
            State::Connected(state) => state.handle(event, context, now),
            State::Standby(state) => state.handle(event, context, now),
            State::Error(state) => state.handle(event, context, now),
        })
    }

    /// When to call [`Machine::handle_timeout`]; `None` while only an event can change anything.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state() {
            State::NotProvisioned(state) => Some(state.deadline()),
            State::Enrolling(state) => Some(state.deadline()),
            State::PendingApproval(state) => Some(state.deadline()),
            State::Connecting(state) => state.deadline(),
            State::Error(state) => Some(state.deadline()),
            State::Disconnected(_) | State::Connected(_) | State::Standby(_) => None,
        }
    }

    /// Does what is due at `now`, if anything is.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Command> {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return Vec::new();
        }
        self.step(|state, context| match state {
            State::NotProvisioned(state) => state.on_timeout(context, now),
            State::Enrolling(state) => state.on_timeout(context, now),
            State::PendingApproval(state) => state.on_timeout(context, now),
            State::Connecting(state) => state.on_timeout(context, now),
            State::Error(state) => state.on_timeout(context, now),
            same @ (State::Disconnected(_) | State::Connected(_) | State::Standby(_)) => (same, Vec::new()),
        })
    }

    fn step(&mut self, step: impl FnOnce(State, &mut Context) -> Step) -> Vec<Command> {
        let Some(state) = self.state.take() else { return Vec::new() };
        let (state, commands) = step(state, &mut self.context);
        self.state = Some(state);
        commands
    }
}

/// What the device is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// There is no usable first-boot file or configuration.
    NotProvisioned(NotProvisioned),
    /// Asking the manager for a certificate.
    Enrolling(Enrolling),
    /// The manager knows the device and an administrator has to let it in.
    PendingApproval(PendingApproval),
    /// Enrolled, and no tunnel is wanted.
    Disconnected(Disconnected),
    /// On the way to a tunnel.
    Connecting(Connecting),
    /// The tunnel is up.
    Connected(Connected),
    /// The tunnel is closed because nobody uses it; the next packet opens it.
    Standby(Standby),
    /// Something is wrong that somebody has to know of; it is tried again all the same.
    Error(Error),
}

impl State {
    /// The state's name.
    #[must_use]
    pub fn name(&self) -> StateName {
        match self {
            Self::NotProvisioned(_) => StateName::NotProvisioned,
            Self::Enrolling(_) => StateName::Enrolling,
            Self::PendingApproval(_) => StateName::PendingApproval,
            Self::Disconnected(_) => StateName::Disconnected,
            Self::Connecting(_) => StateName::Connecting,
            Self::Connected(_) => StateName::Connected,
            Self::Standby(_) => StateName::Standby,
            Self::Error(_) => StateName::Error,
        }
    }

    /// Why the device is not connected, in words for a human; empty when there is nothing to say.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        match self {
            Self::NotProvisioned(state) => Some(state.cause().to_owned()),
            Self::Enrolling(state) => state.cause(),
            Self::PendingApproval(state) => Some(state.cause()),
            Self::Connecting(state) => state.cause().map(ToOwned::to_owned),
            Self::Error(state) => Some(state.cause().to_owned()),
            Self::Disconnected(_) | Self::Connected(_) | Self::Standby(_) => None,
        }
    }

    /// The gateway that the tunnel goes to, or is about to.
    #[must_use]
    pub fn gateway(&self) -> Option<&HttpsOrigin> {
        match self {
            Self::Connecting(state) => state.gateway(),
            Self::Connected(state) => state.gateway(),
            _ => None,
        }
    }
}

/// The name of a state, as it stands in the log, in the status and on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StateName {
    /// See [`State::NotProvisioned`].
    NotProvisioned,
    /// See [`State::Enrolling`].
    Enrolling,
    /// See [`State::PendingApproval`].
    PendingApproval,
    /// See [`State::Disconnected`].
    Disconnected,
    /// See [`State::Connecting`].
    Connecting,
    /// See [`State::Connected`].
    Connected,
    /// See [`State::Standby`].
    Standby,
    /// See [`State::Error`].
    Error,
}

impl StateName {
    const ALL: [Self; 8] = [
        Self::NotProvisioned,
        Self::Enrolling,
        Self::PendingApproval,
        Self::Disconnected,
        Self::Connecting,
        Self::Connected,
        Self::Standby,
        Self::Error,
    ];
}

impl fmt::Display for StateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotProvisioned => "NotProvisioned",
            Self::Enrolling => "Enrolling",
            Self::PendingApproval => "PendingApproval",
            Self::Disconnected => "Disconnected",
            Self::Connecting => "Connecting",
            Self::Connected => "Connected",
            Self::Standby => "Standby",
            Self::Error => "Error",
        })
    }
}

impl FromStr for StateName {
    type Err = String;

    /// Takes any case, with or without hyphens: `PendingApproval` and `pending-approval` are the same.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain = text.replace(['-', '_'], "").to_ascii_lowercase();
        Self::ALL.into_iter().find(|name| name.to_string().to_ascii_lowercase() == plain).ok_or_else(|| {
            let names: Vec<String> = Self::ALL.iter().map(ToString::to_string).collect();
            format!("expected one of {}", names.join(", "))
        })
    }
}

/// Names one attempt at something that takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attempt(u64);

/// What the daemon is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Read the first-boot file and what is stored, and open the identity; answer with [`Event::Looked`].
    Look {
        /// This attempt.
        attempt: Attempt,
    },
    /// Ask the manager for a certificate, with a key of this TPM, made if there is none; answer with [`Event::Enrolment`].
    Enrol {
        /// This attempt.
        attempt: Attempt,
    },
    /// Get a tunnel and keep it, until [`Command::Stop`] or [`Event::TunnelFailed`].
    Connect {
        /// This attempt.
        attempt: Attempt,
    },
    /// Give this attempt up, and undo what it did to the machine's network, before anything else is begun.
    Stop {
        /// The attempt.
        attempt: Attempt,
    },
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// What [`Command::Look`] found.
    Looked {
        /// Which attempt.
        attempt: Attempt,
        /// What there is.
        result: Result<Found, LookFailure>,
    },
    /// How [`Command::Enrol`] ended.
    Enrolment {
        /// Which attempt.
        attempt: Attempt,
        /// The manager's answer.
        result: Result<Admission, EnrolFailure>,
    },
    /// The tunnel is up: addresses and routes are set.
    TunnelUp {
        /// Which attempt.
        attempt: Attempt,
        /// Through which gateway, counted by priority.
        gateway: usize,
    },
    /// The tunnel goes on through this gateway.
    TunnelMoved {
        /// Which attempt's tunnel.
        attempt: Attempt,
        /// Which gateway.
        gateway: usize,
    },
    /// The tunnel that was up is gone; the attempt goes on.
    TunnelDown {
        /// Which attempt's tunnel.
        attempt: Attempt,
        /// Why.
        reason: String,
    },
    /// There is no tunnel yet; the attempt goes on.
    TunnelTrouble {
        /// Which attempt.
        attempt: Attempt,
        /// Which gateway it is about, if it is about one.
        gateway: Option<usize>,
        /// What is wrong.
        cause: String,
    },
    /// Nobody uses the tunnel, so it is closed until there is a packet; the attempt goes on.
    TunnelAsleep {
        /// Which attempt.
        attempt: Attempt,
    },
    /// There will be no tunnel from this attempt.
    TunnelFailed {
        /// Which attempt.
        attempt: Attempt,
        /// Why.
        failure: ConnectFailure,
    },
    /// Somebody wants the tunnel.
    Connect,
    /// Somebody does not want the tunnel.
    Disconnect,
    /// An uplink came up or changed its addresses: waiting for it is over.
    UplinkChanged,
}

/// What [`Command::Look`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Certificate, key and configuration are there and belong together.
    Member(Membership),
    /// There is no usable enrolment.
    NotEnrolled {
        /// What was wrong with the one that was stored, if there was one.
        note: Option<String>,
    },
}

/// Why [`Command::Look`] found nothing to go on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LookFailure {
    /// The first-boot file or the configuration is missing or wrong.
    Files(String),
    /// The TPM, the key, the disk or the network of this machine cannot be used.
    Unusable(String),
    /// The key and certificate that are stored were made with another TPM.
    ForeignKey(String),
}

/// The manager's answer to an enrolment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Certificate and configuration are stored.
    Member(Membership),
    /// An administrator has to decide.
    Pending {
        /// The manager's reason.
        reason: String,
        /// When to ask again.
        retry_after: Duration,
    },
}

/// Why there is no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EnrolFailure {
    /// No connection, no answer, or one that cannot be understood: it may pass.
    Passing(String),
    /// The manager's certificate is not trusted.
    Untrusted(String),
    /// The manager understood and refused.
    Refused(String),
    /// The TPM or the disk cannot be used.
    Identity(String),
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectFailure {
    /// No connection or no answer: it may pass.
    Unreachable(String),
    /// The gateway's certificate is not trusted.
    Untrusted(String),
    /// The gateway does not let this device in.
    Refused(String),
    /// This device's own certificate is past its end.
    Expired(String),
    /// The TPM or the key cannot be used.
    Identity(String),
    /// This machine cannot carry a tunnel: no interface, no route.
    Local(String),
}

/// What the machine has to know of the enrolment, or of the configuration that stands for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    gateways: Arc<[HttpsOrigin]>,
    mode: Mode,
    managed: bool,
}

impl Membership {
    /// From a device's tunnel; `managed` says whether there is a manager to enrol with again.
    #[must_use]
    pub fn new(tunnel: &TunnelConfig, managed: bool) -> Self {
        let mut gateways: Vec<_> = tunnel.gateways.iter().collect();
        gateways.sort_by_key(|gateway| gateway.priority);
        let gateways = gateways.into_iter().map(|gateway| gateway.origin.clone()).collect();
        Self { gateways, mode: tunnel.mode, managed }
    }

    /// On to what is wanted: a tunnel, or none.
    fn enter(self, pace: Pace, context: &mut Context, now: Instant) -> Step {
        if context.wants_tunnel(self.mode) {
            return Connecting::begin(self, pace, context, now);
        }
        Disconnected::enter(self, pace)
    }
}

/// The next state and what to do on the way there.
type Step = (State, Vec<Command>);

/// What outlives a state.
#[derive(Debug)]
struct Context {
    word: Option<Word>,
    rng: StdRng,
    attempts: u64,
}

impl Context {
    fn attempt(&mut self) -> Attempt {
        self.attempts += 1;
        Attempt(self.attempts)
    }

    /// The last word decides; as long as there is none, the mode.
    fn wants_tunnel(&self, mode: Mode) -> bool {
        match self.word {
            Some(Word::Connect) => true,
            Some(Word::Disconnect) => false,
            None => mode != Mode::Manual,
        }
    }
}

/// The last that was said about the tunnel in this run of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    Connect,
    Disconnect,
}

/// Either an attempt runs, with a deadline in case it never ends, or the next one waits.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Running { attempt: Attempt, deadline: Instant },
    Waiting { until: Instant },
}

impl Phase {
    fn deadline(&self) -> Instant {
        match *self {
            Self::Running { deadline, .. } => deadline,
            Self::Waiting { until } => until,
        }
    }

    fn is(&self, of: Attempt) -> bool {
        matches!(self, Self::Running { attempt, .. } if *attempt == of)
    }

    fn is_waiting(&self) -> bool {
        matches!(self, Self::Waiting { .. })
    }

    fn stop(&self) -> Vec<Command> {
        match *self {
            Self::Running { attempt, .. } => vec![Command::Stop { attempt }],
            Self::Waiting { .. } => Vec::new(),
        }
    }
}

/// How long looking, enrolling or connecting may take before it counts as failed. Each has shorter limits inside; this one is
/// for an attempt that hangs, in a TPM for example.
const HUNG: Duration = Duration::from_secs(240);
