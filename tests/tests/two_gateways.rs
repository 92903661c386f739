//! Two gateways in one site: a device that goes from one to the other keeps its addresses, and the company finds it there.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use m2m_lab::addresses::{
    GATEWAY_INSIDE_V4, GATEWAY_INSIDE_V6, GATEWAY2_INSIDE_V4, GATEWAY2_INSIDE_V6, INTRANET_V4, INTRANET_V6,
};
use m2m_lab::{Gateway, Policy, wait_until};
use m2m_tests::{Company, LIMIT};

/// Whether the company's host sends packets for both addresses to the gateway with these addresses.
fn is_routed_to(company: &Company, addresses: &[String], gateway: [String; 2]) -> bool {
    let host = &company.lab.topology().company;
    addresses.iter().all(|address| {
        let route = host.ip(&format!("route get {address}")).unwrap();
        gateway.iter().any(|gateway| route.contains(&format!("via {gateway} ")))
    })
}

fn first() -> [String; 2] {
    [GATEWAY_INSIDE_V4.to_string(), GATEWAY_INSIDE_V6.to_string()]
}

fn second() -> [String; 2] {
    [GATEWAY2_INSIDE_V4.to_string(), GATEWAY2_INSIDE_V6.to_string()]
}

fn has_session(gateway: &Gateway, device: &str) -> bool {
    gateway.sessions().is_ok_and(|sessions| sessions.iter().any(|session| session.json.to_string().contains(device)))
}

#[test]
fn a_device_keeps_its_addresses_at_the_other_gateway() {
    let (mut company, mut gateway2) = Company::open_with_two_gateways().unwrap();
    let mut device = company.connected_device("truck").unwrap();
    let status = device.status().unwrap().unwrap();
    let (id, addresses) = (status.device_id.unwrap(), status.addresses);
    let plain: Vec<String> = addresses.iter().map(|address| address.split('/').next().unwrap().to_owned()).collect();
    assert_eq!(plain.len(), 2, "{addresses:?}");
    assert!(has_session(&company.gateway, &id) && !has_session(&gateway2, &id));
    wait_until("the route to gateway", LIMIT, || is_routed_to(&company, &plain, first())).unwrap();
    company.wait_for_page(&device).unwrap();

    company.gateway.stop();
    let stopped = Instant::now();
    wait_until("the device at gateway2", LIMIT, || has_session(&gateway2, &id)).unwrap();
    println!("at gateway2 after {:?}", stopped.elapsed());
    wait_until("the route to gateway2", LIMIT, || is_routed_to(&company, &plain, second())).unwrap();
    for server in [INTRANET_V4.into(), INTRANET_V6.into()] {
        wait_until("the page through gateway2", LIMIT, || company.fetch(&device, server).is_ok()).unwrap();
    }
    let status = device.status().unwrap().unwrap();
    assert_eq!(status.addresses, addresses);

    // And back, when the second one is gone; a device that is new to both gets other addresses.
    company.gateway.start().unwrap();
    let mut other = company.connected_device("other").unwrap();
    assert!(other.status().unwrap().unwrap().addresses.iter().all(|address| !addresses.contains(address)));
    gateway2.stop();
    wait_until("the device at gateway", LIMIT, || has_session(&company.gateway, &id)).unwrap();
    wait_until("the route to gateway", LIMIT, || is_routed_to(&company, &plain, first())).unwrap();
    company.wait_for_page(&device).unwrap();
    company.wait_for_page(&other).unwrap();
    assert_eq!(device.status().unwrap().unwrap().addresses, addresses);

    company.lab.routing().unwrap().must_run().unwrap();
    let leaks = company.lab.capture().unwrap().audit(&Policy::lab().with_second_gateway()).unwrap();
    assert_eq!(leaks, []);
}
