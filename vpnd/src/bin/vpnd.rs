//! The device daemon.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// The VPN daemon of a machine that nobody sits at.
///
/// It makes a key in the machine's TPM, enrols with the company's manager, opens a tunnel through one of the company's
/// gateways and keeps it open for ever. What it is doing is a state that `vpnctl status` shows; whatever goes wrong is tried
/// again by itself. Log lines go to the journal, or to stderr where there is none.
///
/// It needs CAP_NET_ADMIN and access to the TPM (group tss), not root. SIGTERM closes the tunnel in order.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration file.
    #[arg(long, value_name = "FILE", default_value = "/etc/m2mvpn/vpnd.toml")]
    config: PathBuf,
    /// Only check the configuration file: exit 0 if it is right; else say file, line, field and what was expected, and exit 1.
    #[arg(long)]
    check: bool,
}

const EXAMPLES: &str = r#"Configuration of a machine with a manager:
  state_dir = "/data/vpnd"                        # owner vpnd, mode 0700
  first_boot = "/run/m2mvpn/first-boot.toml"
  machine = "/run/m2mvpn/machine.json"
  [identity.tpm]
  tcti = "device:/dev/tpmrm0"

Configuration of a machine without a manager:
  state_dir = "/var/lib/vpnd"
  trust_anchor = "/etc/vpnd/ca.pem"               # the gateway's certificate has to chain to it
  firewall = false                                # true: fill the sets of the image's nftables table
  dns = "none"                                    # or "resolved"
  [identity.pem]
  certificate = "/etc/vpnd/device.pem"
  key = "/etc/vpnd/device.key"
  [[tunnel.gateway]]
  origin = "https://gateway.example"

Further fields of both:
  socket = "/run/vpnd/vpnd.sock"                  # the local API
  interface = "m2m0"                              # the tunnel's interface
  resolvers = ["192.0.2.53"]                      # for the names of gateway and manager, in place of the uplink's
  clock_floor = "2026-01-01T00:00:00Z"            # no earlier clock is believed

Exit status: 0 after SIGTERM or SIGINT, 1 when configuration, state directory or socket cannot be used.

Environment: RUST_LOG sets the log level (such as debug, or vpnd=debug,quinn_proto=info)."#;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            if log::max_level() == log::LevelFilter::Off {
                eprintln!("vpnd: {error:#}");
            }
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    if arguments.check {
        m2m_protocol::config_file::load::<vpnd::config::Config>(&arguments.config)?;
        return Ok(());
    }
    vpnd::journal::install()?;
    // No core dump and no debugger of the same user: the process holds session keys.
    nix::sys::prctl::set_dumpable(false)?;
    // A signature by the TPM blocks its thread in the middle of a handshake, so there has to be another one.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let result = runtime.block_on(vpnd::daemon::run(&arguments.config));
    // A TPM that does not answer must not keep the daemon from ending.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    result
}
