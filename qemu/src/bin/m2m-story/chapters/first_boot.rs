//! From power-on to the tunnel, without a human.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use m2m_lab::{Status, wait_for};

use crate::{
    application,
    figures::Boot,
    story::{BOOT_LIMIT, SERIAL, Story},
};

pub(super) fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.step("power-on: UEFI firmware, kernel, first program", |story| {
        story.machine.power_on()?;
        let kernel = story.machine.wait_for_shell(BOOT_LIMIT)?;
        story.state.kernel_start = kernel.as_secs_f64();
        story.shell(&application::ping_until_answered())?;
        Ok(format!("kernel after {:.1} s", kernel.as_secs_f64()))
    })?;
    story.step("the key is made in the TPM", |story| {
        let made = wait_for_milestone(story, "the key to be made", |status| status.milestones.key_made)?;
        Ok(format!("after {made:.1} s"))
    })?;
    story.step("the manager lets it in by its TPM's certificate and gives it its own", |story| {
        let enrolled = wait_for_milestone(story, "the enrolment", |status| status.milestones.enrolled)?;
        let record = story.manager.device(SERIAL)?.context("the manager does not know the device")?;
        ensure!(record.state == "approved", "the manager has it as {}: {}", record.state, record.reason);
        story.state.device_id = record.id;
        Ok(format!("{} after {enrolled:.1} s", story.state.device_id))
    })?;
    story.step("the tunnel is up, with IPv4 and IPv6 addresses of its own", |story| {
        let status = story.machine.wait_for_state("Connected", BOOT_LIMIT)?;
        remember(story, &status)?;
        let addresses: Vec<_> = story.state.addresses.iter().map(ToString::to_string).collect();
        Ok(addresses.join(", "))
    })?;
    story.step("the configuration in the device is the one of this device", |story| {
        let status = story.machine.wait_for_state("Connected", BOOT_LIMIT)?;
        ensure!(
            status.device_id.as_deref() == Some(story.state.device_id.as_str()),
            "the device calls itself {:?}",
            status.device_id
        );
        let record = story.manager.device(SERIAL)?.context("the manager does not know the device")?;
        ensure!(
            record.certificate_serial() == Some(story.state.certificate.as_str()),
            "the manager has certificate {:?}, the device {}",
            record.certificate_serial(),
            story.state.certificate
        );
        let known = story.gateway.sessions()?;
        // One over UDP and, where that was slow to come up, one over TCP that is about to be closed.
        ensure!(matches!(known.len(), 1 | 2), "the gateway has {} sessions", known.len());
        for session in &known {
            let text = session.json.to_string();
            ensure!(text.contains(&story.state.device_id), "the gateway has a session of {text}");
        }
        Ok(format!("certificate {}", story.state.certificate))
    })?;
    story.step("the first ping through the tunnel is answered", |story| {
        let ping = first_ping(story)?;
        let kernel = story.state.kernel_start;
        let status = story.machine.wait_for_state("Connected", BOOT_LIMIT)?;
        story.figures().first_boot = Boot::new(kernel, &status.milestones, ping);
        Ok(format!("after {:.1} s", kernel + ping))
    })
}

/// The time of the first answer, in seconds since the kernel's start.
pub(super) fn first_ping(story: &mut Story) -> anyhow::Result<f64> {
    let text = story.machine.shell_until(
        "a ping to be answered",
        "test -s /run/m2mvpn-lab.ping && cat /run/m2mvpn-lab.ping",
        BOOT_LIMIT,
    )?;
    text.trim().parse().with_context(|| format!("{text:?} is no time"))
}

/// Waits for a milestone and returns it in seconds since power-on.
fn wait_for_milestone(
    story: &mut Story,
    what: &str,
    milestone: impl Fn(&Status) -> Option<f64>,
) -> anyhow::Result<f64> {
    let machine = &mut story.machine;
    let since_kernel = wait_for(what, BOOT_LIMIT, || Ok(machine.status()?.as_ref().and_then(&milestone)))?;
    Ok(story.state.kernel_start + since_kernel)
}

fn remember(story: &mut Story, status: &Status) -> anyhow::Result<()> {
    let certificate = status.certificate.as_ref().context("the status has no certificate")?;
    story.state.certificate.clone_from(&certificate.serial);
    let plain = |address: &String| address.split('/').next().unwrap_or_default().parse::<IpAddr>();
    story.state.addresses = status.addresses.iter().map(plain).collect::<Result<_, _>>()?;
    let has = |v4: bool| story.state.addresses.iter().any(|address| address.is_ipv4() == v4);
    ensure!(has(true) && has(false), "the addresses are {:?}", status.addresses);
    Ok(())
}
