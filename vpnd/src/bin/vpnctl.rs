//! The command line of the device daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use m2m_identity::machine_bound;
use m2m_protocol::durable;
use tokio::time::{Instant, sleep};
use vpnd::api::client::{Call, CallError, call};
use vpnd::api::{Authentication, Status};
use vpnd::state::StateName;
use zeroize::Zeroizing;

/// Asks the VPN daemon of this machine what it is doing, or tells it to connect or disconnect.
///
/// Everybody may read the status; root and members of group vpnd may connect and disconnect.
#[derive(Debug, Parser)]
#[command(version, after_help = HELP)]
struct Arguments {
    /// The daemon's socket.
    #[arg(long, value_name = "PATH", default_value = "/run/vpnd/vpnd.sock", global = true)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the daemon is doing: state, cause, addresses, traffic.
    Status(Output),
    /// Show how the machine proves who it is: kind and place of its key, certificate, and what came of it last.
    Auth {
        /// Print one JSON object: `method`, `key`, `last` and `certificate`, times in seconds since boot (CLOCK_BOOTTIME).
        #[arg(long)]
        json: bool,
    },
    /// Encrypt a private key with facts about this machine, so that a copied file is of no use on another one.
    ///
    /// A fact is the content of a file, such as a serial number below /sys; one of them may change. The daemon has to be able to read them.
    Bind {
        /// The private key: PEM, PKCS #8 or SEC 1, not encrypted. Delete it afterwards.
        #[arg(long, value_name = "FILE")]
        key: PathBuf,
        /// A fact; 3 to 16 of them.
        #[arg(long = "fact", value_name = "FILE", required = true)]
        facts: Vec<PathBuf>,
        /// Where to write the bound key, for `[identity.bound]`.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Open the tunnel, and keep it open, until `disconnect`.
    Connect(Output),
    /// Close the tunnel, and keep it closed until `connect` or until the daemon starts again.
    Disconnect(Output),
}

#[derive(Debug, Args)]
struct Output {
    /// Print the status as the API gives it: one JSON object, times in seconds since boot (CLOCK_BOOTTIME).
    #[arg(long)]
    json: bool,
    /// First wait until the daemon is in this state: NotProvisioned, Enrolling, PendingApproval, Disconnected, Connecting,
    /// Connected or Error.
    #[arg(long, value_name = "STATE")]
    wait: Option<StateName>,
    /// How long to wait, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, requires = "wait")]
    timeout: u64,
}

const HELP: &str = "\
Examples:
  vpnctl status
  vpnctl status --json | jq -r .addresses[]
  vpnctl status --wait Connected --timeout 120 && start-the-application
  vpnctl auth --json | jq -r .certificate.not_after
  vpnctl connect --wait Connected

Exit status:
  0  done; with --wait: the state is reached
  1  the daemon's answer cannot be understood; bind: the key cannot be bound
  2  wrong arguments
  3  --wait: the state was not reached in time; the status at the end is printed
  4  the daemon cannot be reached
  5  not allowed";

const UNEXPECTED: u8 = 1;
const NOT_REACHED: u8 = 3;
const NO_DAEMON: u8 = 4;
const NOT_ALLOWED: u8 = 5;

/// How often the status is looked at while waiting.
const POLL: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match runtime {
        Ok(runtime) => runtime.block_on(run(&arguments)),
        Err(error) => Err(CallError::Broken(error.to_string())),
    };
    result.unwrap_or_else(|error| {
        eprintln!("vpnctl: {error}");
        ExitCode::from(match error {
            CallError::Unreachable { .. } => NO_DAEMON,
            CallError::NotAllowed(_) => NOT_ALLOWED,
            CallError::Broken(_) => UNEXPECTED,
        })
    })
}

fn bind(key: &Path, facts: &[PathBuf], out: &Path) -> ExitCode {
    let bound = std::fs::read_to_string(key)
        .map(Zeroizing::new)
        .map_err(|error| format!("{}: {error}", key.display()))
        .and_then(|pem| machine_bound::seal(&pem, facts).map_err(|error| error.to_string()))
        .and_then(|content| {
            durable::write(out, content.as_bytes(), 0o600).map_err(|error| format!("{}: {error}", out.display()))
        });
    match bound {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("vpnctl: {reason}");
            ExitCode::from(UNEXPECTED)
        }
    }
}

async fn show_authentication(socket: &Path, json: bool) -> Result<ExitCode, CallError> {
    let (_, status) = call(socket, Call::Status).await?;
    if json {
        let Authentication { method, key, last } = &status.authentication;
        let object =
            serde_json::json!({ "method": method, "key": key, "last": last, "certificate": status.certificate });
        println!("{object}");
    } else {
        print!("{}", vpnd::vpnctl::authentication(&status, vpnd::clock::boot_time()));
    }
    Ok(ExitCode::SUCCESS)
}

async fn run(arguments: &Arguments) -> Result<ExitCode, CallError> {
    let socket = arguments.socket.as_path();
    let (what, output) = match &arguments.command {
        Command::Bind { key, facts, out } => return Ok(bind(key, facts, out)),
        Command::Auth { json } => return show_authentication(socket, *json).await,
        Command::Status(output) => (Call::Status, output),
        Command::Connect(output) => (Call::Connect, output),
        Command::Disconnect(output) => (Call::Disconnect, output),
    };
    let end = Instant::now() + Duration::from_secs(output.timeout);
    let reached = |status: &Status| output.wait.is_none_or(|wanted| status.state == wanted);
    let mut answer = call(socket, what).await;
    // While waiting, a daemon that is about to start is waited for, too.
    while output.wait.is_some() && Instant::now() < end {
        match &answer {
            Ok((_, status)) if reached(status) => break,
            Ok(_) | Err(CallError::Unreachable { .. } | CallError::Broken(_)) => {}
            Err(CallError::NotAllowed(_)) => break,
        }
        sleep(POLL).await;
        // The word was given unless there was nobody to hear it.
        let next = if answer.is_ok() { Call::Status } else { what };
        answer = call(socket, next).await;
    }
    let (text, status) = answer?;
    if output.json {
        println!("{text}");
    } else {
        print!("{}", vpnd::vpnctl::table(&status, vpnd::clock::boot_time()));
    }
    if reached(&status) {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("vpnctl: the state is {} after {} seconds", status.state, output.timeout);
    Ok(ExitCode::from(NOT_REACHED))
}
