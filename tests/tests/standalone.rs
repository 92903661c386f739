//! `docs/standalone.md`, done as it stands there: two machines, no manager, no TPM.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use m2m_lab::addresses::{INTRANET_NAME, INTRANET_V4};
use m2m_lab::{Firewall, Lab, LabOptions, Node, Programs};

const LIMIT: Duration = Duration::from_secs(30);

#[test]
fn the_page_on_standalone_use_works_as_it_stands() {
    let lab = Lab::start(LabOptions { token: "standalone".to_owned(), ..LabOptions::default() }).unwrap();
    let gateway = &lab.topology().gateway;
    let device = lab.plug("atm-0001", Firewall::Open).unwrap();
    let directory = lab.directory("standalone").unwrap();
    let place = directory.to_str().unwrap();

    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/standalone.md")).unwrap();
    let [certificates, _, _, device_commands] = blocks(&page, "sh").try_into().expect("four blocks of commands");
    let [gateway_toml, vpnd_toml] = blocks(&page, "toml").try_into().expect("two files");
    // Two machines would not share these directories; two nodes of a lab do.
    let moved = |text: &str| {
        ["/etc/m2m-gateway", "/etc/m2mvpn", "/var/lib/vpnd"]
            .iter()
            .fold(text.to_owned(), |text, old| text.replace(old, place))
    };
    let gateway_toml = format!("state_dir = \"{place}/gateway\"\n{}", moved(&gateway_toml));
    let vpnd_toml = format!("socket = \"{place}/vpnd.sock\"\n{}", moved(&vpnd_toml));
    fs::write(lab.outside(directory.join("gateway.toml")), gateway_toml).unwrap();
    fs::write(lab.outside(directory.join("vpnd.toml")), vpnd_toml).unwrap();
    shell(gateway, &directory, &format!("set -e\n{certificates}"));

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

    assert!(device_commands.contains("vpnctl status --wait Connected"));
    let vpnctl = format!("{} --socket {place}/vpnd.sock", program("vpnctl"));
    shell(&device.node, &directory, &format!("{vpnctl} status --wait Connected"));
    assert!(device_commands.contains(&format!("ping {INTRANET_V4}")));
    let url = format!("http://{INTRANET_V4}/");
    let answer =
        shell(&device.node, &directory, &format!("curl --silent --max-time 10 --header 'Host: {INTRANET_NAME}' {url}"));
    assert_eq!(answer, "m2mvpn lab standalone\n");

    server.must_run().unwrap();
    daemon.must_run().unwrap();
}

/// The fenced code blocks of one language, in order.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split_once("```").expect("an end of the block").0.to_owned()).collect()
}

/// Runs `commands` in `directory` and returns what they print; they must succeed.
fn shell(node: &Node, directory: &Path, commands: &str) -> String {
    let commands = format!("cd {}\n{commands}", directory.display());
    node.exec(&["bash", "-c", &commands]).unwrap().ok().unwrap()
}
