//! scratch
#![allow(clippy::unwrap_used)]
use std::time::{Duration, Instant};
fn main() {
    let lab = m2m_lab::Lab::start(m2m_lab::LabOptions::default()).unwrap();
    let t = Instant::now();
    println!("auto: {:?} {:?}", lab.accelerator(m2m_lab::machine::Choice::Auto), t.elapsed());
    let accel: m2m_lab::machine::Choice = std::env::args().nth(2).unwrap().parse().unwrap();
    let accel = lab.accelerator(accel).unwrap();
    let image = lab.flash("flashed", std::path::Path::new(&std::env::args().nth(1).unwrap()), None).unwrap();
    let mut m = lab.machine(m2m_lab::MachineOptions::new("atm", accel), &image, lab.tpm("atm").unwrap()).unwrap();
    m.power_on().unwrap();
    let k = m.wait_for_shell(Duration::from_secs(170));
    println!("kernel {k:?}, shell at {:?}", m.since_power_on());
    if k.is_err() {
        println!("{}", m.console());
        std::process::exit(1);
    }
    for c in [
        "cat /proc/cmdline; uname -a; ls /dev/tpm*",
        "systemctl --failed --no-pager; systemctl list-units --no-pager | head -60",
        "ip a; ip -6 route; nft list ruleset | head -30",
        "journalctl -b --no-pager | tail -80",
        "cat /run/m2mvpn/*",
        "busybox | tail -30; ls /usr/bin | wc -l; free; df",
    ] {
        println!(
            "== {c}\n{}",
            m.shell(c).map(|o| format!("[{}] {}", o.status, o.stdout)).unwrap_or_else(|e| e.to_string())
        );
    }
    let t = Instant::now();
    println!("off {:?} {:?}", m.power_off(), t.elapsed());
    m.power_on().unwrap();
    let k = m.wait_for_shell(Duration::from_secs(170));
    println!("kernel {k:?}, shell at {:?}", m.since_power_on());
    println!("{}", m.console().len());
}
