//! A device gets its certificate and its configuration by itself, on good days and on bad ones.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use m2m_lab::{ManagerOptions, wait_until};
use m2m_tests::{Company, Cutter, LIMIT};

#[test]
fn a_device_enrols_by_itself_and_reaches_the_company() {
    let mut company = Company::open().unwrap();
    let mut device = company.device("truck").unwrap();
    device.start().unwrap();
    let status = device.wait_for_state("Connected", LIMIT).unwrap();
    let record = company.manager.device(device.serial()).unwrap().unwrap();
    assert_eq!(record.state, "approved");
    assert_eq!(status.device_id.as_deref(), Some(record.id.as_str()));
    assert_eq!(status.certificate.unwrap().serial, record.certificate_serial().unwrap());
    let milestones = status.milestones;
    assert!(milestones.key_made.is_some() && milestones.enrolled.is_some() && milestones.tunnel_up.is_some());
    company.wait_for_page(&device).unwrap();
    company.audit().unwrap();
}

#[test]
fn nothing_is_enrolled_again_at_the_second_start() {
    let mut company = Company::open().unwrap();
    let mut device = company.device("truck").unwrap();
    device.start().unwrap();
    let first = device.wait_for_state("Connected", LIMIT).unwrap();

    company.manager.stop();
    device.reboot().unwrap();
    let second = device.wait_for_state("Connected", LIMIT).unwrap();
    assert_eq!(second.certificate, first.certificate);
    assert_eq!(second.addresses, first.addresses);
    assert!(second.milestones.key_made.is_none() && second.milestones.enrolled.is_none());
    company.wait_for_page(&device).unwrap();
    company.audit().unwrap();
}

#[test]
fn a_manager_that_is_down_at_first_boot_is_asked_again() {
    let mut company = Company::open().unwrap();
    company.manager.stop();
    let mut device = company.device("truck").unwrap();
    device.start().unwrap();
    wait_until("the device to say that it cannot enrol", LIMIT, || {
        device.status().unwrap().is_some_and(|status| !status.cause_text().is_empty() && !status.is("NotProvisioned"))
    })
    .unwrap();
    company.manager.start().unwrap();
    device.wait_for_state("Connected", LIMIT).unwrap();
    company.audit().unwrap();
}

#[test]
fn an_unknown_tpm_waits_and_gets_in_when_it_is_approved() {
    let mut company = Company::open_to_nobody(&ManagerOptions::default()).unwrap();
    let mut device = company.device("truck").unwrap();
    device.start().unwrap();
    device.wait_for_state("PendingApproval", LIMIT).unwrap();
    let record = company.manager.device(device.serial()).unwrap().unwrap();
    assert_eq!(record.state, "pending");
    assert!(company.gateway.sessions().unwrap().is_empty());

    company.manager.approve(&record.id).unwrap();
    let status = device.wait_for_state("Connected", LIMIT).unwrap();
    assert_eq!(status.device_id, Some(record.id));
    company.wait_for_page(&device).unwrap();
    company.audit().unwrap();
}

#[test]
fn a_manager_with_another_certificate_learns_nothing() {
    let mut company = Company::open().unwrap();
    let other = ManagerOptions { name: "other".to_owned(), ..ManagerOptions::default() };
    let other = company.lab.manager(&other).unwrap();
    let mut device = company.device("truck").unwrap();
    // The image trusts another manager than the one that answers.
    device.set_manager(&other).unwrap();
    device.start().unwrap();
    wait_until("the device to name the certificate", LIMIT, || {
        let cause = device.status().unwrap().map(|status| status.cause_text().to_lowercase()).unwrap_or_default();
        cause.contains("certificate") || cause.contains("trust")
    })
    .unwrap();
    assert!(company.manager.devices().unwrap().is_empty());
    assert!(company.gateway.sessions().unwrap().is_empty());
    company.audit().unwrap();
}

#[test]
fn an_answer_that_is_cut_anywhere_leaves_the_device_able_to_enrol() {
    let options = ManagerOptions { port: 8443, ..ManagerOptions::default() };
    let mut company = Company::open_to_nobody(&options).unwrap();
    let mut device = company.device("truck").unwrap();
    company.manager.accept_ek_ca(&company.lab.ek_ca_file().unwrap(), &[]).unwrap();
    let cutter = Cutter::start(&company.lab.topology().manager, options.port).unwrap();

    // In the handshake, behind it, in the challenge, in the certificate.
    for bytes in [0, 1, 100, 1200, 2200, 2600, 2800, 3000, 3400] {
        let cuts = cutter.cuts();
        cutter.cut_after(bytes);
        device.start().unwrap();
        wait_until(&format!("an answer to be cut after {bytes} bytes"), LIMIT, || {
            cutter.cuts() > cuts || device.status().unwrap().is_some_and(|status| status.is("Connected"))
        })
        .unwrap();
        wait_until("the device to be asked", LIMIT, || device.status().unwrap().is_some()).unwrap();
        // A power cut follows the cut answer.
        device.kill();
    }
    assert!(cutter.cuts() >= 5, "only {} answers were cut", cutter.cuts());

    cutter.cut_after(usize::MAX);
    device.start().unwrap();
    device.wait_for_state("Connected", LIMIT).unwrap();
    assert_eq!(company.manager.devices().unwrap().len(), 1);
    company.wait_for_page(&device).unwrap();
    company.audit().unwrap();
}
