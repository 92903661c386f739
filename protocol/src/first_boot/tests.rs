#![allow(clippy::unwrap_used)]

use std::path::Path;

use super::*;
use crate::config_file::{self, ConfigFileError};

const GOOD: &str = r#"version = 1

[manager]
url = "https://manager.example"
trust_anchor = """
-----BEGIN CERTIFICATE-----
MAA=
-----END CERTIFICATE-----
"""

[device]
hostname = "atm-{serial}"
label = "batch-7"
timezone = "Europe/Berlin"

[ntp]
servers = ["192.0.2.1"]

[[uplink]]
match = "en*"
priority = 1
method = "dhcp"

[[uplink]]
match = "wwan0"
priority = 2
method = "static"
addresses = ["198.51.100.7/24"]
gateways = ["198.51.100.1"]
dns = ["198.51.100.1"]
"#;

fn parse(text: &str) -> Result<FirstBoot, ConfigFileError> {
    config_file::parse(Path::new("first-boot.toml"), text)
}

#[test]
fn a_good_file_is_read_and_written_again() {
    let first_boot = parse(GOOD).unwrap();
    assert_eq!(first_boot.uplinks.len(), 2);
    assert_eq!(first_boot.device.hostname.hostname(&"SN_0001".parse().unwrap()), "atm-sn-0001");
    assert_eq!(parse(&toml::to_string(&first_boot).unwrap()).unwrap(), first_boot);
}

#[test]
fn the_shortest_file_has_sensible_defaults() {
    let text = GOOD.replace("hostname = \"atm-{serial}\"\nlabel = \"batch-7\"\ntimezone = \"Europe/Berlin\"\n", "");
    let device = parse(&text).unwrap().device;
    assert_eq!(device.hostname.hostname(&"7".parse().unwrap()), "m2m-7");
    assert_eq!(device.timezone.as_str(), "UTC");
}

/// Every mistake: what is replaced by what, and the line, field and words that the error has to have.
#[test]
fn a_wrong_file_names_line_field_and_what_was_expected() {
    let table = [
        ("version = 1", "version = 2", 1, "version", "expected version 1, found 2"),
        ("https://manager.example", "http://manager.example", 4, "manager.url", "expected an origin"),
        ("MAA=", "MAA", 5, "manager.trust_anchor", "certificate 1 is damaged"),
        ("-----END CERTIFICATE-----", "", 5, "manager.trust_anchor", "an end line is missing"),
        ("atm-{serial}", "atm {serial}", 12, "device.hostname", "{serial}"),
        ("batch-7", "batch 7", 13, "device.label", "expected 1 to 64"),
        ("Europe/Berlin", "../../etc/shadow", 14, "device.timezone", "IANA"),
        ("servers = [\"192.0.2.1\"]", "servers = [\"pool.ntp.org\"]", 17, "ntp.servers", "outside of the tunnel"),
        ("match = \"en*\"", "match = \"*\"", 20, "uplink[0].match", "interface name or pattern"),
        ("priority = 1", "priority = -1", 21, "uplink[0].priority", "u16"),
        ("method = \"dhcp\"", "method = \"pppoe\"", 22, "uplink[0].method", "expected `dhcp` or `static`"),
        ("method = \"dhcp\"", "", 19, "uplink[0]", "missing field `method`"),
        ("addresses = [\"198.51.100.7/24\"]", "", 24, "uplink[1]", "expected `addresses`"),
        ("method = \"static\"", "method = \"dhcp\"", 24, "uplink[1]", "expected no `addresses`"),
        ("198.51.100.7/24", "198.51.100.7/33", 28, "uplink[1].addresses[0]", "invalid IP"),
        ("timezone =", "time_zone =", 14, "device.time_zone", "expected one of `hostname`, `label`, `timezone`"),
    ];
    for (old, new, line, field, words) in table {
        assert!(GOOD.contains(old), "{old}");
        let Err(ConfigFileError::Invalid(invalid)) = parse(&GOOD.replacen(old, new, 1)) else {
            panic!("{old} -> {new} was accepted");
        };
        assert_eq!(invalid.line, Some(line), "{invalid}");
        assert_eq!(invalid.field, field, "{invalid}");
        assert!(invalid.problem.contains(words), "{invalid}");
        assert!(invalid.to_string().starts_with(&format!("first-boot.toml:{line}: {field}: ")), "{invalid}");
    }
}

#[test]
fn what_is_not_toml_names_the_line() {
    let error = parse("version = 1\n[manager\n").unwrap_err().to_string();
    assert!(error.starts_with("first-boot.toml:2: "), "{error}");
}

#[test]
fn a_private_key_is_refused_and_not_repeated() {
    let text = GOOD.replace("MAA=", "MAA=\n-----END CERTIFICATE-----\n-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n");
    let error = parse(&text).unwrap_err().to_string();
    assert!(error.contains("a private key does not belong into an image"), "{error}");
    assert!(!error.contains("c2VjcmV0"), "{error}");
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in ".{0,200}", at in 0..GOOD.len()) {
        let _ = parse(&text);
        let mut spliced = GOOD.to_owned();
        let at = (at..).find(|at| spliced.is_char_boundary(*at)).unwrap();
        spliced.insert_str(at, &text);
        let _ = parse(&spliced);
    }

    #[test]
    fn every_host_name_is_a_label(serial in "[A-Za-z0-9][A-Za-z0-9._-]{0,63}") {
        let hostname = HostnamePattern::default().hostname(&serial.parse().unwrap());
        proptest::prop_assert!(crate::names::is_label(&hostname), "{hostname}");
    }
}
