//! `m2m-first-boot` in a root directory of the test's own.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output};

const FILE: &str = r#"version = 1
[manager]
url = "https://manager.example"
trust_anchor = """
-----BEGIN CERTIFICATE-----
MAA=
-----END CERTIFICATE-----
"""
[device]
hostname = "atm-{serial}"
timezone = "Europe/Berlin"
[ntp]
servers = ["192.0.2.1"]
[[uplink]]
match = "en*"
method = "dhcp"
[[uplink]]
match = "wwan0"
method = "dhcp"
"#;

struct Machine(tempfile::TempDir);

impl Machine {
    fn new() -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        machine.put("sys/class/dmi/id/product_serial", "SN0001\n");
        machine.put("usr/share/zoneinfo/Europe/Berlin", "TZif2");
        machine
    }

    fn put(&self, path: &str, content: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn run(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_m2m-first-boot"));
        command.arg("--root").arg(self.0.path()).arg("--file").arg(self.0.path().join("first-boot.toml"));
        command.output().unwrap()
    }

    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.0.path().join("run").join(path)).ok()
    }
}

#[test]
fn a_right_file_configures_the_machine() {
    let machine = Machine::new();
    machine.put("first-boot.toml", FILE);
    let output = machine.run();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("atm-sn0001") && text.contains("https://manager.example"), "{text}");

    assert_eq!(machine.read("m2mvpn/first-boot.toml").unwrap(), FILE);
    assert_eq!(machine.read("m2mvpn/machine.json").unwrap(), r#"{"serial":"SN0001","hostname":"atm-sn0001"}"#);
    assert!(machine.read("systemd/network/10-m2mvpn-001.network").unwrap().contains("Name=wwan0"));
    assert!(machine.read("systemd/timesyncd.conf.d/20-m2mvpn.conf").unwrap().contains("NTP=192.0.2.1"));
    let zone = std::fs::read_link(machine.0.path().join("run/m2mvpn/localtime")).unwrap();
    assert_eq!(zone, Path::new("/usr/share/zoneinfo/Europe/Berlin"));
    assert_eq!(machine.read("m2mvpn/first-boot.error"), None);
}

#[test]
fn a_wrong_file_says_why_and_leaves_no_network() {
    let machine = Machine::new();
    machine.put("first-boot.toml", FILE);
    assert!(machine.run().status.success());

    machine.put("first-boot.toml", &FILE.replace("https:", "http:"));
    let output = machine.run();
    assert_eq!(output.status.code(), Some(1));
    let printed = String::from_utf8(output.stderr).unwrap();
    let written = machine.read("m2mvpn/first-boot.error").unwrap();
    for text in [&printed, &written] {
        assert!(text.contains("first-boot.toml:3: manager.url: expected an origin"), "{text}");
    }
    assert_eq!(machine.read("m2mvpn/first-boot.toml"), None);
    assert_eq!(machine.read("systemd/network/10-m2mvpn-000.network"), None);
    assert_eq!(machine.read("systemd/network/10-m2mvpn-001.network"), None);
    assert_eq!(machine.read("systemd/timesyncd.conf.d/20-m2mvpn.conf"), None);
    // Who the machine is does not depend on the file.
    assert!(machine.read("m2mvpn/machine.json").unwrap().contains("\"hostname\":\"m2m-sn0001\""));

    machine.put("first-boot.toml", FILE);
    assert!(machine.run().status.success());
    assert_eq!(machine.read("m2mvpn/first-boot.error"), None);
}

#[test]
fn a_missing_file_is_named() {
    let machine = Machine::new();
    let output = machine.run();
    assert_eq!(output.status.code(), Some(1));
    assert!(machine.read("m2mvpn/first-boot.error").unwrap().contains("first-boot.toml cannot be read"));
}

#[test]
fn an_unknown_time_zone_is_told_and_is_utc() {
    let machine = Machine::new();
    machine.put("first-boot.toml", &FILE.replace("Europe/Berlin", "Mars/Olympus"));
    let output = machine.run();
    assert!(output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("Mars/Olympus"));
    let zone = std::fs::read_link(machine.0.path().join("run/m2mvpn/localtime")).unwrap();
    assert_eq!(zone, Path::new("/usr/share/zoneinfo/UTC"));
}
