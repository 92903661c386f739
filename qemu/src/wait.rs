use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{LabError, Result};

const POLL: Duration = Duration::from_millis(50);

/// Polls `condition` until it holds.
///
/// # Errors
/// [`LabError::Timeout`] with `what` when it does not hold within `limit`.
pub fn wait_until(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) -> Result<()> {
    wait_for(what, limit, || Ok(condition().then_some(())))
}

/// Polls `probe` until it returns a value.
///
/// # Errors
/// The first error of `probe`, or [`LabError::Timeout`] with `what` when there is no value within `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            return Err(LabError::Timeout { what: what.to_owned(), limit });
        }
        thread::sleep(POLL);
    }
}
