//! A machine whose clock says 1970.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use m2m_lab::{Accelerator, MachineOptions};
use m2m_tests::{Company, image};

/// An emulated machine on a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_clock_at_1970_does_not_keep_the_machine_out() {
    let mut company = Company::open().unwrap();
    let first_boot = company.manager.first_boot().unwrap();
    let flashed = company.lab.flash("image", &image().unwrap(), Some(&first_boot)).unwrap();
    let options = MachineOptions {
        clock: Some("1970-01-01T00:00:00".to_owned()),
        ..MachineOptions::new("old", Accelerator::Tcg)
    };
    let mut machine = company.lab.machine(options, &flashed, company.lab.tpm("old").unwrap()).unwrap();
    machine.power_on().unwrap();
    machine.wait_for_shell(BOOT_LIMIT).unwrap();
    let hardware = machine.shell("cat /sys/class/rtc/rtc0/date").unwrap().ok().unwrap();
    assert!(hardware.starts_with("1970-"), "the hardware clock says {hardware}");
    let status = machine.wait_for_state("Connected", BOOT_LIMIT).unwrap();
    assert!(status.milestones.enrolled.is_some());
    company.audit().unwrap();
}
