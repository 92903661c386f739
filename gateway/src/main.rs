//! `m2m-gateway`: where the tunnels of the devices end, in front of the company's network.
//!
//! | room | what it does |
//! |---|---|
//! | `config` | `gateway.toml` |
//! | `gateway` | puts the parts together, runs and stops them |
//! | `admission`, `admit`, `device_certificate`, `revocation`, `revocation_keeper`, `crl_source` | who may come in |
//! | `pool`, `address_book`, `book_file`, `table` | which device has which addresses, and which session packets for them go to |
//! | `route_injection` | at which of several gateways a device is, for the company's routers |
//! | `worker`, `steering`, `stream`, `passage`, `policy`, `session`, `interface` | packets between devices and the kernel, which forwards them |
//! | `metrics`, `status_page`, `logger`, `signals` | what the administrator sees and says |

mod address_book;
mod admission;
mod admit;
mod book_file;
mod config;
mod confinement;
mod crl_source;
mod device_certificate;
mod gateway;
mod interface;
mod logger;
mod metrics;
mod passage;
mod policy;
mod pool;
mod revocation;
mod revocation_keeper;
mod route_injection;
mod session;
mod signals;
mod status_page;
mod steering;
mod stream;
mod table;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

/// Ends the tunnels of m2mvpn devices in front of the company's network.
///
/// Devices connect by CONNECT-IP (RFC 9484) over HTTP/3 on UDP port 443 or, where UDP does not pass, over HTTP/2 on TCP port 443, with a certificate of the manager's CA that the
/// revocation list does not name. Each gets the same IPv4 and IPv6 address every time, may send from these addresses only, and
/// reaches the configured routes and nothing else, no other device either. The kernel forwards the packets: set
/// net.ipv4.ip_forward and net.ipv6.conf.all.forwarding to 1, and give the company's network a route to the pool. Where several gateways
/// share an address book, each puts routes to its own devices (proto 109) into the kernel's table for a routing daemon.
///
/// Needs CAP_NET_ADMIN for the tunnel interface and CAP_NET_BIND_SERVICE for port 443; no root.
#[derive(Debug, Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    /// The configuration, TOML. Wrong content is refused with file, line, field and what was expected.
    #[arg(long, value_name = "FILE", default_value = "/etc/m2m-gateway/gateway.toml")]
    config: PathBuf,
    /// Check the configuration and the files that it names, and exit.
    #[arg(long)]
    check: bool,
}

const EXAMPLES: &str = "\
Signals:
  SIGHUP   read the revocation list now; sessions of revoked devices are closed at once
  SIGTERM  tell the devices to go elsewhere, close the sessions, exit with 0

Examples:
  m2m-gateway --config gateway.toml --check
  m2m-gateway --config gateway.toml
  curl http://127.0.0.1:9184/sessions     who is connected, JSON
  curl http://127.0.0.1:9184/metrics      counters for Prometheus

Exit status: 0 stopped as told, 1 failed, 2 wrong arguments.";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("m2m-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(arguments: &Arguments) -> anyhow::Result<()> {
    logger::start()?;
    let config = config::load(&arguments.config)?;
    let prepared = gateway::prepare(&config)?;
    if arguments.check {
        println!("{}: good", arguments.config.display());
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(gateway::run(config, prepared))
}
