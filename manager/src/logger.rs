//! One logger: the journal where systemd says so, else standard error.

use log::LevelFilter;

/// Starts it. A server says what it does; a command only what went wrong.
pub(crate) fn start(serves: bool) {
    let level = if serves { LevelFilter::Info } else { LevelFilter::Warn };
    if serves
        && std::env::var_os("JOURNAL_STREAM").is_some()
        && let Ok(logger) = systemd_journal_logger::JournalLog::new()
        && logger.install().is_ok()
    {
        log::set_max_level(level);
        return;
    }
    env_logger::Builder::new()
        .filter_level(level)
        // sqlx tells each statement, and each slow one.
        .filter_module("sqlx", LevelFilter::Error)
        .format_target(false)
        .parse_default_env()
        .init();
}
