//! An image without a first-boot file, and one with a wrong file.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use m2m_lab::{Accelerator, MachineOptions};
use m2m_tests::{Company, image};

const BOOT_LIMIT: Duration = Duration::from_secs(240);

#[test]
fn an_image_without_a_first_boot_file_says_so_and_sends_nothing() {
    let mut company = Company::open().unwrap();
    let flashed = company.lab.flash("image", &image().unwrap(), None).unwrap();
    let options = MachineOptions::new("blank", Accelerator::Tcg);
    let mut machine = company.lab.machine(options, &flashed, company.lab.tpm("blank").unwrap()).unwrap();
    machine.power_on().unwrap();
    machine.wait_for_shell(BOOT_LIMIT).unwrap();
    let status = machine.wait_for_state("NotProvisioned", BOOT_LIMIT).unwrap();
    assert!(status.cause_text().contains("first-boot.toml"), "{}", status.cause_text());
    let error = machine.shell("cat /run/m2mvpn/first-boot.error").unwrap().ok().unwrap();
    assert!(error.contains("first-boot.toml"), "{error}");
    machine.shell("nft list table inet m2mvpn").unwrap().ok().unwrap();
    company.audit().unwrap();
}
