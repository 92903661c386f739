//! Off and on again: nothing is enrolled twice.

use anyhow::{Context, ensure};
use m2m_lab::{MachineOptions, addresses::INTRANET_NAME};

use super::{company::fetch, first_boot::first_ping};
use crate::{
    application,
    figures::Boot,
    story::{BOOT_LIMIT, SERIAL, Story},
};

pub(super) fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.step("the machine shuts down in order; meanwhile its disk is copied to another machine", |story| {
        story.machine.power_off()?;
        let options = MachineOptions {
            serial: "LAB-THIEF".to_owned(),
            ..MachineOptions::new("thief", story.machine.accelerator())
        };
        let tpm = story.lab.tpm("thief")?;
        story.thief = Some(story.machine.copy_disk_to(options, tpm)?);
        Ok(String::new())
    })?;
    story.step("power-on again: the tunnel is up without a new enrolment", |story| {
        story.machine.power_on()?;
        let kernel = story.machine.wait_for_shell(BOOT_LIMIT)?.as_secs_f64();
        story.shell(&application::ping_until_answered())?;
        let status = story.machine.wait_for_state("Connected", BOOT_LIMIT)?;
        let certificate = status.certificate.as_ref().context("the status has no certificate")?;
        ensure!(
            certificate.serial == story.state.certificate,
            "the certificate is now {}, it was {}",
            certificate.serial,
            story.state.certificate
        );
        ensure!(status.milestones.key_made.is_none(), "a key was made again");
        ensure!(status.milestones.enrolled.is_none(), "it enrolled again");
        let devices = story.manager.devices()?;
        ensure!(devices.len() == 1, "the manager knows {} devices", devices.len());
        let ping = first_ping(story)?;
        story.figures().second_boot = Boot::new(kernel, &status.milestones, ping);
        Ok(format!("first ping after {:.1} s", kernel + ping))
    })?;
    story.step("the application reads the company's page again", |story| fetch(story, INTRANET_NAME))?;
    story.step("the manager still has the same certificate", |story| {
        let record = story.manager.device(SERIAL)?.context("the manager does not know the device")?;
        ensure!(record.certificate_serial() == Some(story.state.certificate.as_str()), "{record:?}");
        Ok(String::new())
    })
}
