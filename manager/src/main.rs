//! The manager: where devices are enrolled, configured and revoked. It is their certification authority, too.
//!
//! | room | what it does |
//! |---|---|
//! | [`ca`] | keys and certificates of the CA, and what it signs |
//! | [`store`] | devices, certificates, accepted TPMs and tokens, in SQLite |
//! | [`fleet`] | what CA and database do together |
//! | [`enrol`] | enrolment by TPM: challenge, answer, policy |
//! | [`est`] | Enrollment over Secure Transport, RFC 7030 |
//! | [`http`] | routes, limits, who asks |
//! | [`server`] | TLS connections, renewal, start and stop |
//! | [`cli`] | the commands |

mod ca;
mod cli;
mod config;
mod csr;
mod enrol;
mod est;
mod fleet;
mod http;
mod logger;
mod names;
mod problem;
mod server;
mod store;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    logger::start(arguments.serves());
    let done = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(cli::run(arguments)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
