//! Whose key it is: no TPM, another TPM, a copied disk.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use m2m_lab::{ManagerOptions, wait_until};
use m2m_tests::{Company, LIMIT};

#[test]
fn without_a_tpm_there_is_no_key_and_the_device_says_so() {
    let mut company = Company::open().unwrap();
    let mut device = company.lab.daemon("truck", None).unwrap();
    device.set_manager(&company.manager).unwrap();
    device.start().unwrap();
    wait_until("the device to name the TPM", LIMIT, || {
        device.status().unwrap().is_some_and(|status| status.is("Error") && status.cause_text().contains("TPM"))
    })
    .unwrap();
    assert!(company.manager.devices().unwrap().is_empty());
    company.audit().unwrap();
}

#[test]
fn a_disk_in_a_machine_with_another_tpm_does_not_get_in_and_says_why() {
    let mut company = Company::open_to_nobody(&ManagerOptions::default()).unwrap();
    let mut device = company.device("truck").unwrap();
    let mut thief = company.device("thief").unwrap();
    company.manager.accept_ek_ca(&company.lab.ek_ca_file().unwrap(), &[device.serial()]).unwrap();
    device.start().unwrap();
    let owner = device.wait_for_state("Connected", LIMIT).unwrap().device_id.unwrap();
    device.stop();
    wait_until("the owner's session to end", LIMIT, || company.gateway.sessions().unwrap().is_empty()).unwrap();

    thief.copy_state_from(&device).unwrap();
    thief.start().unwrap();
    thief.wait_for_log("the key does not belong to this TPM", LIMIT).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        assert!(company.gateway.sessions().unwrap().is_empty());
        assert!(thief.status().unwrap().is_none_or(|status| !status.is("Connected")));
    }
    assert!(company.fetch_both(&thief).is_err());
    // It is another machine to the manager, and one that nobody has approved.
    thief.wait_for_state("PendingApproval", LIMIT).unwrap();
    let record = company.manager.device(thief.serial()).unwrap().unwrap();
    assert_eq!(record.state, "pending");
    assert_ne!(record.id, owner);

    // The owner is not harmed.
    thief.stop();
    device.start().unwrap();
    assert_eq!(device.wait_for_state("Connected", LIMIT).unwrap().device_id, Some(owner));
    company.audit().unwrap();
}

#[test]
fn two_devices_have_addresses_of_their_own_and_keep_them() {
    let mut company = Company::open().unwrap();
    let (mut one, mut other) = (company.device("one").unwrap(), company.device("other").unwrap());
    one.start().unwrap();
    other.start().unwrap();
    let first = one.wait_for_state("Connected", LIMIT).unwrap();
    let second = other.wait_for_state("Connected", LIMIT).unwrap();
    assert_ne!(first.device_id, second.device_id);
    assert!(first.addresses.iter().all(|address| !second.addresses.contains(address)));
    company.wait_for_page(&one).unwrap();
    company.wait_for_page(&other).unwrap();

    one.stop();
    other.stop();
    other.start().unwrap();
    assert_eq!(other.wait_for_state("Connected", LIMIT).unwrap().addresses, second.addresses);
    one.start().unwrap();
    assert_eq!(one.wait_for_state("Connected", LIMIT).unwrap().addresses, first.addresses);
    company.audit().unwrap();
}
