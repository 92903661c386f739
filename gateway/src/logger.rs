//! The program's one logger: the journal under systemd, standard error elsewhere.

use systemd_journal_logger::JournalLog;

/// Begins to log at level info, or what `RUST_LOG` says.
///
/// # Errors
/// When the journal cannot be reached.
pub(crate) fn start() -> anyhow::Result<()> {
    if systemd_journal_logger::connected_to_journal() {
        JournalLog::new()?.install()?;
        log::set_max_level(log::LevelFilter::Info);
        return Ok(());
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).try_init()?;
    Ok(())
}
