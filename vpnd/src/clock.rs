//! The time, on a machine that may boot in 1970.
//!
//! Certificates are judged by the system's clock, but by none that is earlier than the floor: the latest of the time of
//! the build, the configuration's `clock_floor`, and the time that was last saved. A time is saved only after a server's
//! certificate was found valid at it: a clock that runs years ahead would otherwise raise the floor for ever.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use m2m_identity::tls::FlooredClock;
use m2m_protocol::durable;
use nix::time::{ClockId, clock_gettime};
use rustls_pki_types::UnixTime;
use time::OffsetDateTime;

/// The clock with its floor.
#[derive(Debug)]
pub struct Clock {
    floored: Arc<FlooredClock>,
    floor: u64,
    file: PathBuf,
    believed: AtomicBool,
}

impl Clock {
    /// Reads the time that was saved in `file`, which may be missing or damaged: then the other floors stand.
    #[must_use]
    pub fn open(file: PathBuf, configured: Option<OffsetDateTime>) -> Self {
        let configured = configured.and_then(|floor| u64::try_from(floor.unix_timestamp()).ok());
        let floor = [build_time(), configured, saved(&file)].into_iter().flatten().max().unwrap_or(0);
        let floored = Arc::new(FlooredClock::new(UnixTime::since_unix_epoch(Duration::from_secs(floor))));
        Self { floored, floor, file, believed: AtomicBool::new(false) }
    }

    /// The time by which rustls judges certificates.
    #[must_use]
    pub fn provider(&self) -> Arc<FlooredClock> {
        Arc::clone(&self.floored)
    }

    /// Now, or the floor if that is later.
    #[must_use]
    pub fn now(&self) -> UnixTime {
        self.floored.at_least(UnixTime::since_unix_epoch(system_time()))
    }

    /// Whether the system's clock is before the floor, and so certainly wrong.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        system_time().as_secs() < self.floor
    }

    /// A server's certificate was valid at this time, so the clock may be saved from now on.
    pub fn believe(&self) {
        self.believed.store(true, Ordering::Relaxed);
    }

    /// Saves the time, if there is reason to believe it. A failure is logged: it costs nothing but the floor.
    pub fn save(&self) {
        if !self.believed.load(Ordering::Relaxed) {
            return;
        }
        let now = self.now().as_secs();
        if let Err(error) = durable::write(&self.file, format!("{now}\n").as_bytes(), 0o600) {
            log::warn!("cannot save the time to {}: {error}", self.file.display());
        }
    }
}

/// Seconds since the machine's boot, sleep included (`CLOCK_BOOTTIME`); what wall clocks do does not change it.
#[must_use]
pub fn boot_time() -> f64 {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(0.0, |time| Duration::from(time).as_secs_f64())
}

/// The date of the source, where the build tells it (<https://reproducible-builds.org/docs/source-date-epoch/>).
fn build_time() -> Option<u64> {
    option_env!("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok())
}

fn saved(file: &std::path::Path) -> Option<u64> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok()
}

fn system_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const IN_2100: u64 = 4_102_444_800;

    #[test]
    fn the_saved_time_is_the_floor_of_the_next_run() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("clock");
        std::fs::write(&file, format!("{IN_2100}\n")).unwrap();
        let clock = Clock::open(file, None);
        assert_eq!(clock.now().as_secs(), IN_2100);
        assert!(clock.is_behind());
    }

    #[test]
    fn a_damaged_file_leaves_the_other_floors() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("clock");
        std::fs::write(&file, b"\xff\x00garbage").unwrap();
        let configured = OffsetDateTime::from_unix_timestamp(IN_2100 as i64).unwrap();
        assert_eq!(Clock::open(file.clone(), Some(configured)).now().as_secs(), IN_2100);
        assert!(!Clock::open(file, None).is_behind());
    }

    #[test]
    fn only_a_time_that_was_believed_is_saved() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("clock");
        let clock = Clock::open(file.clone(), None);
        clock.save();
        assert!(!file.exists());
        clock.believe();
        clock.save();
        let saved: u64 = std::fs::read_to_string(&file).unwrap().trim().parse().unwrap();
        assert!(clock.now().as_secs() - saved <= 1);
    }
}
