//! A machine whose clock is wrong by decades.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use m2m_lab::{Accelerator, MachineOptions};
use m2m_tests::{Company, image};

/// An emulated machine on a busy host.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn a_clock_in_the_past_does_not_keep_the_machine_out() {
    let mut company = Company::open().unwrap();
    let first_boot = company.manager.first_boot().unwrap();
    let flashed = company.lab.flash("image", &image().unwrap(), Some(&first_boot)).unwrap();
    // The oldest date that this firmware can tell: it has no century.
    let options = MachineOptions {
        clock: Some("2000-01-01T00:00:00".to_owned()),
        ..MachineOptions::new("old", Accelerator::Tcg)
    };
    let mut machine = company.lab.machine(options, &flashed, company.lab.tpm("old").unwrap()).unwrap();
    machine.power_on().unwrap();
    machine.wait_for_shell(BOOT_LIMIT).unwrap();
    let hardware = machine.shell("cat /sys/class/rtc/rtc0/date").unwrap().ok().unwrap();
    assert!(hardware.starts_with("2000-"), "the hardware clock says {hardware}");
    let status = machine.wait_for_state("Connected", BOOT_LIMIT).unwrap();
    assert!(status.milestones.enrolled.is_some());

    // 1970, as on a board without a clock, and nobody to ask for the time.
    let script = "systemctl stop systemd-timesyncd vpnd && date -s @100 >/dev/null && systemctl start vpnd && date +%Y";
    assert_eq!(machine.shell(script).unwrap().ok().unwrap().trim(), "1970");
    machine.wait_for_state("Connected", BOOT_LIMIT).unwrap();
    assert_eq!(machine.shell("date +%Y").unwrap().ok().unwrap().trim(), "1970");
    company.audit().unwrap();
}
