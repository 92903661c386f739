//! What the tunnel is for, and how the daemon runs that keeps it.

use std::{
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, ensure};
use m2m_lab::{
    addresses::{INTRANET_NAME, INTRANET_V4, INTRANET_V6, ROUTER_V4, ROUTER_V6},
    resident_bytes,
};

use crate::{application, story::Story};

/// CAP_NET_ADMIN, capability 12.
const NET_ADMIN: u64 = 1 << 12;
const EXPOSURE_LIMIT: f64 = 2.0;
const KNOCK_PORT: u16 = 9999;
/// The routing rule by which m2m-first-boot keeps the time servers on the uplink.
const TIME_RULE: &str = "27900:";

pub(super) fn tell(story: &mut Story) -> anyhow::Result<()> {
    story.step("the application reads http://intranet.corp.example/ by name", |story| fetch(story, INTRANET_NAME))?;
    story.step("the same over IPv4 alone and over IPv6 alone", |story| {
        fetch(story, &INTRANET_V4.to_string())?;
        fetch(story, &INTRANET_V6.to_string())
    })?;
    story.step("the company sees the device's own addresses", |story| {
        let seen = story.lab.web().clients();
        for address in &story.state.addresses {
            ensure!(seen.contains(address), "{address} is not among the web server's clients {seen:?}");
        }
        Ok(String::new())
    })?;
    story.step("the company cannot open connections to the device", |story| {
        story.shell(&format!(
            "(nc -l -p {KNOCK_PORT} >/dev/null 2>&1 </dev/null &)
timeout 2 bash -c 'until echo >/dev/tcp/127.0.0.1/{KNOCK_PORT}; do sleep 0.1; done' 2>/dev/null
(while true; do nc -l -p {KNOCK_PORT} >/dev/null 2>&1 </dev/null; done) >/dev/null 2>&1 </dev/null &
echo $! >/run/m2mvpn-lab.listener"
        ))?;
        for address in story.state.addresses.clone() {
            let target = SocketAddr::new(address, KNOCK_PORT);
            let company = &story.lab.topology().company;
            let opened = company.within(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)))?;
            ensure!(opened.is_err(), "a connection to {target} was accepted");
        }
        story.shell("kill $(cat /run/m2mvpn-lab.listener); killall nc 2>/dev/null; true")?;
        Ok("dropped".to_owned())
    })?;
    story.step("time and names that the tunnel needs are asked on the uplink, over IPv4 and IPv6", |story| {
        let rules = story.shell("ip rule; ip -6 rule")?;
        let for_time = rules.lines().filter(|line| line.starts_with(TIME_RULE)).count();
        ensure!(for_time == 2, "the routing rules are {rules}");
        let resolvers = story.shell("grep -h ^DNS= /run/systemd/netif/leases/* /run/systemd/netif/links/*")?;
        for router in [ROUTER_V4.to_string(), ROUTER_V6.to_string()] {
            ensure!(resolvers.contains(&router), "{router} is not among the resolvers {resolvers}");
        }
        Ok(String::new())
    })?;
    story.step("vpnd runs as its own user with CAP_NET_ADMIN and nothing else", |story| {
        let status = story.shell("cat /proc/$(systemctl show -p MainPID --value vpnd)/status")?;
        let user = check_privileges(&status)?;
        let vpnd = resident_bytes(&status);
        let (gateway, manager) = (story.gateway.resident_bytes(), story.manager.resident_bytes());
        let figures = story.figures();
        (figures.resident.vpnd, figures.resident.gateway, figures.resident.manager) = (vpnd, gateway, manager);
        Ok(format!("uid {user}"))
    })?;
    story.step("systemd-analyze security vpnd is 2.0 or better", |story| {
        let text = story.shell("SYSTEMD_COLORS=0 systemd-analyze security vpnd.service --no-pager | tail -n 2")?;
        let exposure = exposure(&text).with_context(|| format!("no figure in {text:?}"))?;
        story.figures().exposure = Some(exposure);
        ensure!(exposure <= EXPOSURE_LIMIT, "it is {exposure}");
        Ok(format!("{exposure:.1}"))
    })
}

/// Fetches the company's page in the machine.
pub(super) fn fetch(story: &mut Story, host: &str) -> anyhow::Result<String> {
    let page = story.machine.shell(&application::fetch(host))?;
    ensure!(application::shows(&page.stdout, story.lab.web().token()), "got {:?}", page.stdout);
    Ok(String::new())
}

/// Checks user and capabilities in the text of a `/proc/PID/status` and returns the user id.
fn check_privileges(status: &str) -> anyhow::Result<u32> {
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::trim).with_context(|| format!("no {name} in {status}"))
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        let capabilities = u64::from_str_radix(field(set)?, 16)?;
        ensure!(capabilities & !NET_ADMIN == 0, "{set} {capabilities:016x}");
    }
    ensure!(u64::from_str_radix(field("CapEff:")?, 16)? == NET_ADMIN, "CAP_NET_ADMIN is not effective");
    ensure!(field("NoNewPrivs:")? == "1", "it may gain privileges");
    let user: u32 = field("Uid:")?.split_whitespace().next().unwrap_or_default().parse()?;
    ensure!(user != 0, "it runs as root");
    Ok(user)
}

/// Reads `Overall exposure level for vpnd.service: 1.3 OK`.
fn exposure(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once("exposure level for vpnd.service:")?;
    rest.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn status(uid: u32, effective: u64, bounding: u64) -> String {
        format!(
            "Name:\tvpnd\nUid:\t{uid}\t{uid}\t{uid}\t{uid}\nCapInh:\t0000000000001000\nCapPrm:\t{effective:016x}\n\
             CapEff:\t{effective:016x}\nCapBnd:\t{bounding:016x}\nCapAmb:\t0000000000001000\nNoNewPrivs:\t1\n"
        )
    }

    #[test]
    fn only_net_admin_passes() {
        assert_eq!(check_privileges(&status(800, NET_ADMIN, NET_ADMIN)).unwrap(), 800);
        assert!(check_privileges(&status(0, NET_ADMIN, NET_ADMIN)).is_err());
        assert!(check_privileges(&status(800, NET_ADMIN | 1, NET_ADMIN)).is_err());
        assert!(check_privileges(&status(800, NET_ADMIN, u64::MAX)).is_err());
        assert!(check_privileges(&status(800, 0, NET_ADMIN)).is_err());
        assert!(check_privileges("Name:\tvpnd\n").is_err());
    }

    #[test]
    fn the_exposure_is_read() {
        assert_eq!(exposure("\n→ Overall exposure level for vpnd.service: 1.3 OK :-)\n"), Some(1.3));
        assert_eq!(exposure("Unit vpnd.service not found"), None);
    }
}
