//! The commands. They work on the same files as the server, which need not run, and take effect at once if it does.

mod authority;
mod device;
mod ek;
mod gateway;
mod output;

use std::path::PathBuf;

use anyhow::Context;
use clap::{Parser, Subcommand};
use m2m_protocol::config_file;
use serde::Serialize;
use time::OffsetDateTime;

use crate::config::Config;
use crate::fleet::Fleet;
use crate::server;

/// Enrols devices, issues and revokes their certificates, and tells them their configuration.
///
/// Without a command the manager serves. At its first start it makes a CA in its state directory; root.pem there is the
/// trust anchor that images and gateways get. The other commands work on the same state while the server runs, and
/// take effect at once.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
pub(crate) struct Arguments {
    /// The configuration, manager.toml.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

const EXAMPLES: &str = "\
Examples:
  Serve:
    m2m-manager --config /etc/m2m-manager/manager.toml
  Let in all machines whose TPM has a certificate of its maker, and whose serial number begins with ATM-:
    m2m-manager --config manager.toml ek-ca add tpm-maker.pem --serial 'ATM-*'
  Let in a machine that waits:
    m2m-manager --config manager.toml device list --state pending
    m2m-manager --config manager.toml device approve dev-0123456789abcdef
  Shut a stolen machine out:
    m2m-manager --config manager.toml device revoke ATM-0042 --reason key-compromise
  Make key and certificate of a gateway:
    m2m-manager --config manager.toml gateway issue --name gateway.example --out /etc/m2mvpn/gateway

The configuration, with all that may be in it:

version = 1
listen = [\"0.0.0.0:443\", \"[::]:443\"]
state_dir = \"/var/lib/m2m-manager\"
names = [\"manager.example\", \"203.0.113.10\"]
organization = \"m2mvpn\"
pending_retry = \"60s\"
lifetimes = { device = \"90d\", server = \"365d\", crl = \"7d\", token = \"7d\" }
limits = { connections = 1024, enrolments_per_minute = 120, pending_devices = 10000 }

[device_defaults]
mode = \"always-on\"                 # or \"manual\"
routes = []                        # empty: all that the gateway advertises
families = { ipv4 = true, ipv6 = true }
dns = { servers = [\"10.20.0.80\"], search = [\"corp.example\"] }
gateway = [{ origin = \"https://gateway.example\", priority = 0 }]";

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until SIGTERM; the same as no command.
    Serve,
    /// The devices: who they are, and whether they are let in.
    #[command(subcommand)]
    Device(device::Command),
    /// Endorsement keys that are let in, one by one.
    #[command(subcommand)]
    Ek(ek::AllowCommand),
    /// CAs of TPM makers whose endorsement key certificates let a device in.
    #[command(subcommand)]
    EkCa(ek::CaCommand),
    /// Certificates of gateways.
    #[command(subcommand)]
    Gateway(gateway::Command),
    /// The manager's own CA.
    #[command(subcommand)]
    Ca(authority::Command),
}

impl Arguments {
    /// Whether this is the server.
    pub(crate) fn serves(&self) -> bool {
        matches!(self.command, None | Some(Command::Serve))
    }
}

/// What every command needs.
#[derive(Debug)]
struct Session<'a> {
    fleet: &'a Fleet,
    json: bool,
    now: OffsetDateTime,
}

impl Session<'_> {
    /// `value` as JSON where that was asked for, else `text`.
    fn answer<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> anyhow::Result<String> {
        if self.json {
            return Ok(serde_json::to_string_pretty(value)?);
        }
        Ok(text())
    }
}

/// Does what the command line says.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config: Config = config_file::load(&arguments.config)?;
    let now = OffsetDateTime::now_utc();
    let fleet = Fleet::open(config, now).await?;
    let session = Session { fleet: &fleet, json: arguments.json, now };
    let text = match arguments.command {
        None | Some(Command::Serve) => return server::run(fleet).await,
        Some(Command::Device(command)) => device::run(&session, command).await,
        Some(Command::Ek(command)) => ek::run_allow(&session, command).await,
        Some(Command::EkCa(command)) => ek::run_ca(&session, command).await,
        Some(Command::Gateway(command)) => gateway::run(&session, command).await,
        Some(Command::Ca(command)) => authority::run(&session, command),
    }?;
    fleet.store().close().await;
    output::print(&text).context("standard output")
}
