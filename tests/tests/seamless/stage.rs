//! A device and one or two gateways, each with its file as `docs/standalone.md` has it, and what happens to the network between them.

use std::{fs, path::PathBuf, time::Duration};

use m2m_lab::addresses::{GATEWAY_V4, GATEWAY_V6, GATEWAY2_V4, INTRANET_V4};
use m2m_lab::{ChildHandle, DeviceNode, Firewall, Lab, LabOptions, Node, Programs, wait_until};
use m2m_tests::{LIMIT, StandalonePage, Stream, shell};
use serde_json::Value;

use crate::heartbeat::Heartbeat;

/// A lab with certificates and the gateways' files; nothing runs yet.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) lab: Lab,
    pub(crate) device: DeviceNode,
    pub(crate) directory: PathBuf,
    programs: Programs,
    page: StandalonePage,
}

impl Stage {
    /// With one gateway.
    pub(crate) fn set() -> Self {
        Self::with(LabOptions::default())
    }

    /// With two gateways that are one site: they share an address book, and the company is told by BGP where a device is.
    pub(crate) fn with_two_gateways() -> Self {
        Self::with(LabOptions { routing: true, ..LabOptions::default() })
    }

    fn with(options: LabOptions) -> Self {
        let lab = Lab::start(options).unwrap();
        let directory = lab.directory("seamless").unwrap();
        let page = StandalonePage::moved_to(directory.to_str().unwrap()).unwrap();
        let (one, all) = (format!("IP:{GATEWAY_V4}"), format!("IP:{GATEWAY_V4},IP:{GATEWAY_V6},IP:{GATEWAY2_V4}"));
        assert!(page.certificates.contains(&one), "{}", page.certificates);
        shell(&lab.topology().gateway, &directory, &page.certificates.replace(&one, &all)).unwrap();
        let device = lab.plug("atm-0001", Firewall::Open).unwrap();
        Self { lab, device, directory, programs: Programs::find().unwrap(), page }
    }

    /// Starts the gateway and waits until it serves.
    pub(crate) fn start_gateway(&self) -> ChildHandle {
        self.run_gateway(&self.lab.topology().gateway, &self.page.gateway_toml)
    }

    /// Starts gateway `number` of two, 1 or 2, and waits until it serves.
    pub(crate) fn start_gateway_of_two(&self, number: u8) -> ChildHandle {
        let place = self.directory.display();
        let book = self.lab.outside(self.directory.join("addresses.json"));
        if !book.is_file() {
            fs::write(book, r#"{"version":1,"devices":{}}"#).unwrap();
        }
        let shared = format!("book = \"{place}/addresses.json\"\ngateway = {number}\nreserved = 16\n");
        let own = self.page.gateway_toml.replace(&format!("{place}/gateway\""), &format!("{place}/gateway-{number}\""));
        let topology = self.lab.topology();
        let node = if number == 1 { &topology.gateway } else { &topology.gateway2 };
        self.run_gateway(node, &format!("{own}{shared}\n[routing]\ninject = \"host-routes\"\n"))
    }

    /// Starts `vpnd` with `tunnel`, lines of its table `[tunnel]`, and the gateways of this stage.
    pub(crate) fn start_device(&self, tunnel: &str) -> Device {
        let gateways = if self.is_of_two() {
            format!("priority = 1\n[[tunnel.gateway]]\norigin = \"https://{GATEWAY2_V4}\"\npriority = 2\n")
        } else {
            String::new()
        };
        self.start_device_with(tunnel, &gateways)
    }

    /// As [`Stage::start_device`], with `more` behind the first gateway.
    pub(crate) fn start_device_with(&self, tunnel: &str, more: &str) -> Device {
        let before = "[[tunnel.gateway]]";
        let page = self.page.vpnd_toml.replace(before, &format!("[tunnel]\n{tunnel}\n{before}"));
        let file = self.directory.join("vpnd.toml");
        fs::write(self.lab.outside(&file), format!("{page}{more}")).unwrap();
        let mut command = self.device.node.command(&self.programs.path("vpnd").unwrap());
        let process = self.device.node.spawn("vpnd", command.arg("--config").arg(&file)).unwrap();
        let socket = self.directory.join("vpnd.sock").to_str().unwrap().to_owned();
        let vpnctl = self.programs.path("vpnctl").unwrap();
        Device { vpnctl, socket, node: self.device.node.clone(), process }
    }

    /// A TCP connection through the tunnel.
    pub(crate) fn stream(&self) -> Stream {
        Stream::start(&self.device.node, &self.lab.topology().company, INTRANET_V4.into())
    }

    /// Datagrams through the tunnel.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        Heartbeat::start(&self.device.node, &self.lab.topology().company, INTRANET_V4.into())
    }

    /// Both, once the datagrams come back.
    pub(crate) fn traffic(&self) -> (Stream, Heartbeat) {
        let (stream, heartbeat) = (self.stream(), self.heartbeat());
        wait_until("the first datagram", LIMIT, || heartbeat.first().is_some()).unwrap();
        (stream, heartbeat)
    }

    /// The router drops what these rules of a chain of forwarded packets say, in silence, until [`Stage::unblock`].
    pub(crate) fn block(&self, rules: &str) {
        let chain = format!("chain forward {{ type filter hook forward priority -10\n{rules}\n}}\n");
        self.lab.topology().internet.nft(&format!("table inet blocked {{\n{chain}}}\n")).unwrap();
    }

    /// Everything passes again.
    pub(crate) fn unblock(&self) {
        self.lab.topology().internet.nft("delete table inet blocked\n").unwrap();
    }

    fn is_of_two(&self) -> bool {
        self.lab.outside(self.directory.join("addresses.json")).is_file()
    }

    fn run_gateway(&self, node: &Node, text: &str) -> ChildHandle {
        let file = self.directory.join(format!("{}.toml", node.name()));
        fs::write(self.lab.outside(&file), text).unwrap();
        let mut command = node.command(&self.programs.path("m2m-gateway").unwrap());
        let mut gateway = node.spawn(node.name(), command.arg("--config").arg(&file)).unwrap();
        let serving = node.wait_for_tcp(([127, 0, 0, 1], 9184));
        gateway.must_run().unwrap();
        serving.unwrap();
        gateway
    }
}

/// UDP with the gateways, both ways.
pub(crate) const UDP: &str = "udp dport 443 drop\nudp sport 443 drop";

/// `vpnd`.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) process: ChildHandle,
    vpnctl: String,
    socket: String,
    node: Node,
}

impl Device {
    /// Waits until the tunnel is up, by `transport`.
    pub(crate) fn wait_until_up(&mut self, transport: &str) {
        let line = self.process.wait_for_log("tunnel up through", LIMIT).unwrap();
        assert!(line.contains(transport), "{line}");
    }

    /// How many lines of the log have this text.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.process.log().lines().filter(|line| line.contains(text)).count()
    }

    /// Waits until the last line of the log that says where the tunnel goes contains `text`.
    pub(crate) fn wait_until_it_goes(&self, text: &str, limit: Duration) {
        let goes = |line: &&str| line.contains("tunnel moved through") || line.contains("tunnel up through");
        wait_until(&format!("the tunnel to go {text}"), limit, || {
            self.process.log().lines().rfind(goes).is_some_and(|line| line.contains(text))
        })
        .unwrap();
    }

    /// The state, as `vpnctl status` has it.
    pub(crate) fn state(&self) -> String {
        let output = self.node.exec(&[&self.vpnctl, "--socket", &self.socket, "status", "--json"]).unwrap();
        let status: Value = serde_json::from_str(&output.ok().unwrap()).unwrap();
        status["state"].as_str().unwrap().to_owned()
    }
}
