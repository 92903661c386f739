//! What happens to machines that nobody sits at.

use std::time::Duration;

use anyhow::ensure;
use m2m_lab::{Policy, addresses::INTRANET_NAME, wait_until};

use super::company::fetch;
use crate::{
    application,
    story::{BOOT_LIMIT, Story},
};

/// Longer than the tunnel's idle time, so that it is really gone.
const CABLE_OUT: Duration = Duration::from_secs(3);

pub(super) fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.step("vpnd is killed with -9 while traffic runs; the tunnel comes back", |story| {
        story.shell(&application::start_traffic())?;
        let before = main_pid(story)?;
        story.shell("systemctl kill --signal=KILL vpnd.service")?;
        story.machine.shell_until(
            "vpnd to be started again",
            &format!("now=$(systemctl show -p MainPID --value vpnd); echo $now; [ $now != 0 ] && [ $now != {before} ]"),
            BOOT_LIMIT,
        )?;
        story.machine.wait_for_state("Connected", BOOT_LIMIT)?;
        wait_for_page(story)?;
        Ok(String::new())
    })?;
    story.step("the cable is pulled and plugged in again; the tunnel carries on", |story| {
        story.machine.set_link(false)?;
        std::thread::sleep(CABLE_OUT);
        story.machine.set_link(true)?;
        wait_for_page(story)?;
        story.shell(application::STOP_TRAFFIC)?;
        Ok(String::new())
    })?;
    story.step("applications and root try to send beside the tunnel", |story| {
        story.machine.shell_within(application::ATTEMPTS, BOOT_LIMIT)?.ok()?;
        Ok("tried".to_owned())
    })?;
    story.step("the gateway restarts; the tunnel comes back with the same addresses", |story| {
        story.gateway.stop();
        story.gateway.start()?;
        wait_for_page(story)?;
        let status = story.machine.wait_for_state("Connected", BOOT_LIMIT)?;
        for address in &story.state.addresses {
            let address = address.to_string();
            ensure!(status.addresses.iter().any(|now| now.starts_with(&address)), "now it has {:?}", status.addresses);
        }
        Ok(String::new())
    })?;
    story.step("so far the capture has no packet that must not be there", |story| {
        let leaks = story.lab.capture()?.audit(&Policy::lab())?;
        let shown: Vec<_> = leaks.iter().take(10).map(ToString::to_string).collect();
        ensure!(leaks.is_empty(), "{} packets leaked:\n{}", leaks.len(), shown.join("\n"));
        Ok(String::new())
    })
}

fn main_pid(story: &mut Story) -> anyhow::Result<u32> {
    Ok(story.shell("systemctl show -p MainPID --value vpnd")?.trim().parse()?)
}

fn wait_for_page(story: &mut Story) -> anyhow::Result<()> {
    let mut last = Ok(String::new());
    let waited = wait_until("the company's page to be reached again", BOOT_LIMIT, || {
        last = fetch(story, INTRANET_NAME);
        last.is_ok()
    });
    last?;
    Ok(waited?)
}
