//! The files of the image, checked by the programs that read them on the device.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("files").join(path)
}

/// Runs nft in a network namespace of its own.
fn nft_alone(script: &str) -> Output {
    let mut command = Command::new("timeout");
    command.args(["30", "unshare", "--user", "--map-root-user", "--net", "sh", "-ec", script, "sh"]);
    command.arg(file("usr/lib/m2mvpn/firewall.nft")).output().unwrap()
}

#[test]
fn the_firewall_loads_twice_and_its_sets_can_be_filled() {
    let output = nft_alone(
        r#"nft -f "$1"
        nft -f "$1"
        nft add element inet m2mvpn gateways4 { 198.51.100.10 }
        nft add element inet m2mvpn gateways6 { 2001:db8:2::10 }
        nft add element inet m2mvpn managers4 { 203.0.113.10 }
        nft add element inet m2mvpn managers6 { 2001:db8:3::10 }
        nft add element inet m2mvpn manager_ports { 443 }
        nft add element inet m2mvpn resolvers4 { 192.0.2.1 }
        nft add element inet m2mvpn resolvers6 { 2001:db8:1::1 }
        nft list table inet m2mvpn"#,
    );
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rules = String::from_utf8(output.stdout).unwrap();
    for hook in ["output", "input", "forward"] {
        assert!(rules.contains(&format!("hook {hook} priority filter; policy drop;")), "{hook}: {rules}");
    }
}

/// A connection of the tunnel must not go on over the uplink because it is established.
#[test]
fn no_outbound_rule_trusts_connection_tracking() {
    let output = nft_alone(r#"nft -f "$1"; nft list chain inet m2mvpn output; nft list chain inet m2mvpn vpnd_out"#);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rules = String::from_utf8(output.stdout).unwrap();
    assert!(rules.contains("jump vpnd_out") && !rules.contains("ct state"), "{rules}");
}

/// The ids in the firewall are the ids of the users whose sockets it lets out.
#[test]
fn the_firewall_and_sysusers_agree_on_ids() {
    let users = std::fs::read_to_string(file("usr/lib/sysusers.d/00-m2mvpn.conf")).unwrap();
    let firewall = std::fs::read_to_string(file("usr/lib/m2mvpn/firewall.nft")).unwrap();
    for (user, name) in [("vpnd", "vpnd"), ("systemd-network", "network"), ("systemd-timesync", "timesync")] {
        let id = users.lines().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("u") && words.next() == Some(user)).then(|| words.next())?
        });
        assert!(firewall.contains(&format!("define {name} = {}\n", id.unwrap())), "{user}");
    }
}

/// The figure that `systemd-analyze security` gives vpnd is 2.0 or better.
#[test]
fn vpnd_is_shut_in() {
    let mut command = Command::new("timeout");
    command.args(["60", "systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20"]);
    let output = command.arg(file("usr/lib/systemd/system/vpnd.service")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
