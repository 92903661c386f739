//! Where log lines go: to the journal when systemd started the program, else to stderr.

use env_logger::Env;
use log::LevelFilter;
use systemd_journal_logger::{JournalLog, connected_to_journal};

/// Whether log lines go to the journal.
#[must_use]
pub fn is_used() -> bool {
    connected_to_journal()
}

/// Installs the program's one logger, at level info unless `RUST_LOG` says otherwise.
///
/// # Errors
/// When the journal cannot be reached or a logger is installed already.
pub fn install() -> anyhow::Result<()> {
    if !is_used() {
        env_logger::Builder::from_env(Env::default().default_filter_or("info")).try_init()?;
        return Ok(());
    }
    JournalLog::new()?.install()?;
    // The journal has its own filters for reading; one level for all is enough for writing.
    let level = std::env::var("RUST_LOG").ok().and_then(|level| level.parse().ok()).unwrap_or(LevelFilter::Info);
    log::set_max_level(level);
    Ok(())
}
