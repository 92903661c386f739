use std::time::Duration;

use serde::Deserialize;

use crate::{LabError, Result, wait::wait_for};

/// What `vpnctl status --json` says; fields that the lab does not look at are left out.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    /// The state's name.
    pub state: String,
    /// Why it is in that state.
    #[serde(default)]
    pub cause: Option<serde_json::Value>,
    /// The device's id, once it is enrolled.
    #[serde(default)]
    pub device_id: Option<String>,
    /// Addresses in the tunnel.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// When what was reached, in seconds since the kernel started.
    #[serde(default)]
    pub milestones: Milestones,
    /// The device's certificate.
    #[serde(default)]
    pub certificate: Option<Certificate>,
}

/// When what was reached in this boot, in seconds of CLOCK_BOOTTIME.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Milestones {
    /// vpnd started.
    pub started: Option<f64>,
    /// The key was made in the TPM.
    pub key_made: Option<f64>,
    /// The manager gave certificate and configuration.
    pub enrolled: Option<f64>,
    /// The tunnel carried packets.
    pub tunnel_up: Option<f64>,
}

/// The device's certificate.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Certificate {
    /// Its subject.
    #[serde(default)]
    pub subject: String,
    /// Its serial number.
    pub serial: String,
}

impl Status {
    /// Reads the JSON.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| LabError::answer("vpnctl status", format!("{error} in {text}")))
    }

    /// Whether the state has this name, in whatever notation (`PendingApproval`, `pending_approval`).
    #[must_use]
    pub fn is(&self, state: &str) -> bool {
        let plain = |text: &str| text.replace(['_', '-', ' '], "").to_ascii_lowercase();
        plain(&self.state) == plain(state)
    }

    /// The cause as text; empty when there is none.
    #[must_use]
    pub fn cause_text(&self) -> String {
        match &self.cause {
            None | Some(serde_json::Value::Null) => String::new(),
            Some(serde_json::Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }
}

/// Waits until `status` gives the state; a timeout tells the last one.
pub(crate) fn wait(
    name: &str,
    state: &str,
    limit: Duration,
    mut status: impl FnMut() -> Result<Option<Status>>,
) -> Result<Status> {
    let mut last = String::from("no answer");
    let result = wait_for(&format!("{name} to be {state}"), limit, || {
        let Some(status) = status()? else {
            return Ok(None);
        };
        last = format!("{} {}", status.state, status.cause_text());
        Ok(status.is(state).then_some(status))
    });
    result.map_err(|error| match error {
        LabError::Timeout { what, limit } => LabError::Timeout { what: format!("{what} (it is: {last})"), limit },
        other => other,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_status_is_read_whatever_else_it_says() {
        let text = r#"{"state": "PendingApproval", "cause": "waits for an administrator", "extra": 1,
            "milestones": {"started": 3.5, "key_made": null, "enrolled": null, "tunnel_up": null}}"#;
        let status = Status::parse(text).unwrap();
        assert!(status.is("PendingApproval") && status.is("pending_approval") && !status.is("Connected"));
        assert_eq!(status.milestones.started, Some(3.5));
        assert_eq!(status.cause_text(), "waits for an administrator");
    }
}
