//! `docs/standalone.md`, done as it stands there: two machines, no manager, no TPM.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::time::Duration;

use m2m_lab::addresses::{INTRANET_NAME, INTRANET_V4};
use m2m_lab::{Firewall, Lab, LabOptions, Programs};
use m2m_tests::{StandalonePage, shell};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_page_on_standalone_use_works_as_it_stands() {
    let lab = Lab::start(LabOptions { token: "standalone".to_owned(), ..LabOptions::default() }).unwrap();
    let gateway = &lab.topology().gateway;
    let device = lab.plug("atm-0001", Firewall::Open).unwrap();
    let directory = lab.directory("standalone").unwrap();
    let place = directory.to_str().unwrap();

    let page = StandalonePage::moved_to(place).unwrap();
    fs::write(lab.outside(directory.join("gateway.toml")), &page.gateway_toml).unwrap();
    fs::write(lab.outside(directory.join("vpnd.toml")), &page.vpnd_toml).unwrap();
    shell(gateway, &directory, &page.certificates).unwrap();

    let programs = Programs::find().unwrap();
    let program = |name: &str| programs.path(name).unwrap();
    let gateway_toml = directory.join("gateway.toml");
    gateway
        .exec(&[&program("m2m-gateway"), "--config", gateway_toml.to_str().unwrap(), "--check"])
        .unwrap()
        .ok()
        .unwrap();
    let mut command = gateway.command(&program("m2m-gateway"));
    let mut server = gateway.spawn("standalone-gateway", command.arg("--config").arg(&gateway_toml)).unwrap();
    let mut command = device.node.command(&program("vpnd"));
    command.arg("--config").arg(directory.join("vpnd.toml"));
    let mut daemon = device.node.spawn("standalone-vpnd", &mut command).unwrap();
    daemon.wait_for_log("-> Connected", LIMIT).unwrap();

    assert!(page.device_commands.contains("vpnctl status --wait Connected"));
    let vpnctl = format!("{} --socket {place}/vpnd.sock", program("vpnctl"));
    shell(&device.node, &directory, &format!("{vpnctl} status --wait Connected")).unwrap();
    assert!(page.device_commands.contains(&format!("ping {INTRANET_V4}")));
    let url = format!("http://{INTRANET_V4}/");
    let fetch = format!("curl --silent --max-time 10 --header 'Host: {INTRANET_NAME}' {url}");
    assert_eq!(shell(&device.node, &directory, &fetch).unwrap(), "m2mvpn lab standalone\n");

    server.must_run().unwrap();
    daemon.must_run().unwrap();
}
