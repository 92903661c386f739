//! A revoked device is out, and stays out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::{Duration, Instant};

use m2m_lab::{Manager, wait_until};
use m2m_tests::{Company, LIMIT};

#[test]
fn a_revoked_device_loses_its_tunnel_and_is_refused() {
    let mut company = Company::open().unwrap();
    let mut device = company.connected_device("truck").unwrap();
    let other = company.connected_device("other").unwrap();
    let id = company.manager.device(device.serial()).unwrap().unwrap().id;
    company.manager.revoke(&id).unwrap();
    let has_session = |company: &Company| {
        company.gateway.sessions().unwrap().iter().any(|session| session.json.to_string().contains(&id))
    };
    wait_until("the session to end", Manager::revocation_limit(), || !has_session(&company)).unwrap();
    wait_until("the device to notice", LIMIT, || !device.status().unwrap().unwrap().is("Connected")).unwrap();
    assert!(company.fetch_both(&device).is_err());

    // Neither by itself nor after a restart.
    device.reboot().unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while Instant::now() < end {
        assert!(!has_session(&company));
        assert!(device.status().unwrap().is_none_or(|status| !status.is("Connected")));
    }
    company.wait_for_page(&other).unwrap();
    company.audit().unwrap();
}
