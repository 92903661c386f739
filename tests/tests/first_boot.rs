//! First-boot files that are missing or wrong.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use m2m_lab::{Daemon, wait_until};
use m2m_tests::{Company, LIMIT};

fn wait_for_cause(device: &mut Daemon, parts: &[&str]) {
    let mut last = String::new();
    let waited = wait_until("the device to say what is wrong", LIMIT, || {
        let Some(status) = device.status().unwrap() else { return false };
        last = format!("{} {}", status.state, status.cause_text());
        status.is("NotProvisioned") && parts.iter().all(|part| last.contains(part))
    });
    assert!(waited.is_ok(), "expected {parts:?}, it is: {last}");
}

#[test]
fn a_missing_file_is_named_and_used_as_soon_as_it_is_there() {
    let mut company = Company::open().unwrap();
    let mut device = company.lab.daemon("truck", Some(company.lab.tpm("truck").unwrap())).unwrap();
    device.start().unwrap();
    wait_for_cause(&mut device, &["first-boot.toml"]);

    device.set_manager(&company.manager).unwrap();
    device.wait_for_state("Connected", LIMIT).unwrap();
    company.audit().unwrap();
}

#[test]
fn a_wrong_file_is_answered_with_line_and_field() {
    let mut company = Company::open().unwrap();
    let mut device = company.device("truck").unwrap();
    device.set_first_boot("version = 1\n\n[manager]\nurl = \"ftp://manager.example\"\n").unwrap();
    device.start().unwrap();
    wait_for_cause(&mut device, &["first-boot.toml:4", "manager.url"]);
    device.set_first_boot("this is no TOML\n").unwrap();
    wait_for_cause(&mut device, &["first-boot.toml:1"]);

    device.set_manager(&company.manager).unwrap();
    device.wait_for_state("Connected", LIMIT).unwrap();
    company.audit().unwrap();
}
