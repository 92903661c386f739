//! A copied disk and a stolen machine stay outside.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use m2m_lab::{Manager, wait_until};

use crate::story::{BOOT_LIMIT, Story};

/// How long a refused device is watched: several of its attempts.
const WATCH: Duration = Duration::from_secs(15);

pub(super) fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.step("the copied disk boots with another TPM; its log says that the key does not belong to it", |story| {
        let thief = story.thief.as_mut().context("there is no copy")?;
        thief.power_on()?;
        thief.wait_for_shell(BOOT_LIMIT)?;
        let line = thief.shell_until(
            "the log to say it",
            "journalctl -b -u vpnd --no-pager | grep 'does not belong to this TPM'",
            BOOT_LIMIT,
        )?;
        let said = line.lines().next().unwrap_or_default();
        Ok(said.rsplit_once("]: ").map_or(said, |(_, message)| message).to_owned())
    })?;
    story.step(
        "it gets no tunnel: not with the copied certificate, and as a new device it waits for approval",
        |story| {
            let end = Instant::now() + WATCH;
            let thief = story.thief.as_mut().context("there is no copy")?;
            while Instant::now() < end {
                if let Some(status) = thief.status()? {
                    ensure!(!status.is("Connected"), "it is connected");
                }
                for session in story.gateway.sessions()? {
                    let text = session.json.to_string();
                    ensure!(text.contains(&story.state.device_id), "the gateway has a session of {text}");
                }
                std::thread::sleep(Duration::from_millis(500));
            }
            let unreachable = thief.shell("timeout 3 bash -c 'echo >/dev/tcp/10.20.0.80/80'")?;
            ensure!(!unreachable.success(), "it reaches the company");
            thief.power_cut();
            Ok(String::new())
        },
    )?;
    story.step("the device is revoked: its tunnel is gone", |story| {
        story.manager.revoke(&story.state.device_id)?;
        let gateway = &story.gateway;
        wait_until("the gateway to end the session", Manager::revocation_limit(), || {
            gateway.sessions().is_ok_and(|sessions| sessions.is_empty())
        })?;
        let machine = &mut story.machine;
        wait_until("the device to notice", BOOT_LIMIT, || {
            machine.status().ok().flatten().is_some_and(|status| !status.is("Connected"))
        })?;
        Ok(String::new())
    })?;
    story.step("it is refused again and again", |story| {
        let end = Instant::now() + WATCH;
        let mut last = String::new();
        while Instant::now() < end {
            if let Some(status) = story.machine.status()? {
                ensure!(!status.is("Connected"), "it is connected again");
                last = format!("{} {}", status.state, status.cause_text());
            }
            ensure!(story.gateway.sessions()?.is_empty(), "the gateway has a session again");
            std::thread::sleep(Duration::from_millis(500));
        }
        Ok(last)
    })
}
