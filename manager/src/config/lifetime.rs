//! Durations as people write them.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// A positive duration of whole seconds, at most 20 years, written as `"45s"`, `"30m"`, `"12h"` or `"90d"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Lifetime(u32);

const MINUTE: u32 = 60;
const HOUR: u32 = 60 * MINUTE;
const DAY: u32 = 24 * HOUR;
const LONGEST: u32 = 20 * 365 * DAY;

impl Lifetime {
    pub(crate) const fn seconds(seconds: u32) -> Self {
        Self(seconds)
    }

    pub(crate) const fn days(days: u32) -> Self {
        Self(days * DAY)
    }

    pub(crate) fn as_seconds(self) -> u32 {
        self.0
    }

    pub(crate) fn as_duration(self) -> time::Duration {
        time::Duration::seconds(self.0.into())
    }
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || "expected a duration such as \"90d\", \"12h\", \"30m\" or \"45s\", at most 7300d".to_owned();
        let unit = match text.as_bytes().last() {
            Some(b's') => 1,
            Some(b'm') => MINUTE,
            Some(b'h') => HOUR,
            Some(b'd') => DAY,
            _ => return Err(expected()),
        };
        let digits = &text[..text.len() - 1];
        if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(expected());
        }
        digits
            .parse::<u32>()
            .ok()
            .and_then(|count| count.checked_mul(unit))
            .filter(|seconds| (1..=LONGEST).contains(seconds))
            .map(Self)
            .ok_or_else(expected)
    }
}

impl TryFrom<String> for Lifetime {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl fmt::Display for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            seconds if seconds % DAY == 0 => write!(f, "{}d", seconds / DAY),
            seconds if seconds % HOUR == 0 => write!(f, "{}h", seconds / HOUR),
            seconds if seconds % MINUTE == 0 => write!(f, "{}m", seconds / MINUTE),
            seconds => write!(f, "{seconds}s"),
        }
    }
}

impl fmt::Debug for Lifetime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_refuses_the_rest() {
        for text in ["45s", "30m", "12h", "90d", "7300d"] {
            assert_eq!(text.parse::<Lifetime>().unwrap().to_string(), text);
        }
        for wrong in ["", "d", "0d", "-1d", "+1d", "1", "1w", "7301d", "99999999999d", "1 d", "1ü"] {
            assert!(wrong.parse::<Lifetime>().is_err(), "{wrong}");
        }
    }
}
