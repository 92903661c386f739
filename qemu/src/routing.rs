use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use crate::{
    ChildHandle, Node, Result, Topology,
    addresses::{GATEWAY_INSIDE_V4, GATEWAY2_INSIDE_V4, INTRANET_V4},
    holder::WORK_DIR,
    topology::{COMPANY, INSIDE},
    wait::wait_for,
};

/// From nothing to sessions between all three: BGP waits a second before it connects, and once more when both sides did.
const START: Duration = Duration::from_secs(30);

/// BIRD on both gateways and on the company's host: they tell each other, by BGP, which device is at which gateway.
#[derive(Debug)]
pub struct Routing {
    daemons: [ChildHandle; 3],
}

impl Routing {
    /// Starts the daemons and waits until each has a session with both others.
    pub(crate) fn start(topology: &Topology) -> Result<Self> {
        let [first, second, company] = HOSTS;
        let routing = Self {
            daemons: [
                start(&topology.gateway, &configuration(&first, &[second, company]))?,
                start(&topology.gateway2, &configuration(&second, &[first, company]))?,
                start(&topology.company, &configuration(&company, &[first, second]))?,
            ],
        };
        for node in [&topology.gateway, &topology.gateway2, &topology.company] {
            wait_for(&format!("the routing daemon on {} to have two sessions", node.name()), START, || {
                let protocols = routing.show(node, "protocols")?;
                Ok((protocols.matches("Established").count() == 2).then_some(()))
            })?;
        }
        Ok(routing)
    }

    /// What the daemon on `node` answers to `show` with these words, for example `route` or `protocols`.
    ///
    /// # Errors
    /// When there is no daemon, or it does not know the words.
    pub fn show(&self, node: &Node, words: &str) -> Result<String> {
        let socket = socket(node);
        let mut command = vec!["birdc", "-r", "-s", &socket, "show"];
        command.extend(words.split_whitespace());
        node.exec(&command)?.ok()
    }

    /// Checks that all daemons still run.
    ///
    /// # Errors
    /// [`crate::LabError::Ended`] with the end of its log when one does not.
    pub fn must_run(&mut self) -> Result<()> {
        self.daemons.iter_mut().try_for_each(ChildHandle::must_run)
    }
}

/// A host with a routing daemon, as the others know it.
#[derive(Debug, Clone, Copy)]
struct Host {
    name: &'static str,
    address: Ipv4Addr,
    interface: &'static str,
    is_gateway: bool,
}

const HOSTS: [Host; 3] = [
    Host { name: "gateway1", address: GATEWAY_INSIDE_V4, interface: INSIDE, is_gateway: true },
    Host { name: "gateway2", address: GATEWAY2_INSIDE_V4, interface: INSIDE, is_gateway: true },
    Host { name: "company", address: INTRANET_V4, interface: COMPANY, is_gateway: false },
];

fn start(node: &Node, configuration: &str) -> Result<ChildHandle> {
    let name = format!("{}-bird", node.name());
    let file = node.write_file(&format!("{name}.conf"), configuration)?;
    let mut command = node.command("bird");
    // In the foreground, with its log on standard error.
    command.arg("-d").arg("-c").arg(file).arg("-s").arg(socket(node));
    let mut daemon = node.spawn(&name, &mut command)?;
    let started = wait_for(&format!("start of {name}"), START, || {
        daemon.must_run()?;
        Ok(node.exec(&["birdc", "-r", "-s", &socket(node), "show", "status"])?.success().then_some(()))
    });
    started.map(|()| daemon)
}

fn socket(node: &Node) -> String {
    PathBuf::from(WORK_DIR).join(format!("{}-bird.ctl", node.name())).to_string_lossy().into_owned()
}

/// `bird.conf` of a host, the same for both families; docs/fleet.md shows it.
fn configuration(host: &Host, neighbours: &[Host]) -> String {
    let (kernel, export) = if host.is_gateway { (GATEWAY_KERNEL, "where krt_source = 109") } else { (KERNEL, "none") };
    let neighbours: String = neighbours
        .iter()
        .map(|other| format!("protocol bgp {} from site {{ neighbor {} as 64512; }}\n", other.name, other.address))
        .collect();
    format!(
        "router id {address};
protocol device {{ }}
protocol bfd {{ interface \"{interface}\" {{ interval 100 ms; multiplier 5; }}; }}

{kernel}
template bgp site {{
    local as 64512;
    direct;
    bfd;
    connect delay time 1;
    error wait time 1, 10;
    ipv4 {{ import all; export {export}; }};
    ipv6 {{ import all; export {export}; }};
}}
{neighbours}",
        address = host.address,
        interface = host.interface,
    )
}

const GATEWAY_KERNEL: &str = "\
# What m2m-gateway gave to the kernel (proto 109): the pool, and the devices that are here. Where a device is
# at both gateways, the newer session counts: it has the lower metric.
filter devices {
    if krt_source != 109 then reject;
    if dest != RTD_UNREACHABLE then bgp_local_pref = 4294967295 - krt_metric;
    accept;
}
# Here, a device that is at both gateways is reached directly: 200 is more than BGP's preference.
protocol kernel { learn; ipv4 { preference 200; import filter devices; export where source = RTS_BGP; }; }
protocol kernel { learn; ipv6 { preference 200; import filter devices; export where source = RTS_BGP; }; }
";

const KERNEL: &str = "\
protocol kernel { ipv4 { import none; export where source = RTS_BGP; }; }
protocol kernel { ipv6 { import none; export where source = RTS_BGP; }; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_configuration_is_the_one_of_the_lab() {
        let page = include_str!("../../docs/fleet.md");
        let [first, second, company] = HOSTS;
        for text in [configuration(&first, &[second, company]), configuration(&company, &[first, second])] {
            assert!(page.contains(&format!("```text\n{text}```\n")), "{text}");
        }
    }
}
