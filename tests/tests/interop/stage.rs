//! The two ends of a tunnel in a lab, each played by the product or by the independent implementation.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::Duration,
};

use m2m_lab::addresses::{GATEWAY_V4, INTRANET_V4, INTRANET_V6, POOL_V4, POOL_V6};
use m2m_lab::{ChildHandle, DeviceNode, Firewall, Lab, LabOptions, Node, Programs, wait_for};
use m2m_tests::{StandalonePage, shell};
use serde_json::Value;

use crate::{
    flow::{Flow, Protocol},
    journal::Journal,
    python, transfer,
};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);
const METRICS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9184);

/// A lab with the certificates and the files of `docs/standalone.md`.
#[derive(Debug)]
pub(crate) struct Stage {
    protocol: Protocol,
    programs: Programs,
    page: StandalonePage,
    directory: PathBuf,
    device: DeviceNode,
    lab: Lab,
}

impl Stage {
    /// Sets it up; nothing runs yet.
    pub(crate) fn set(protocol: Protocol) -> Self {
        let lab = Lab::start(LabOptions::default()).unwrap();
        let directory = lab.directory("interop").unwrap();
        let page = StandalonePage::moved_to(directory.to_str().unwrap()).unwrap();
        shell(&lab.topology().gateway, &directory, &page.certificates).unwrap();
        let device = lab.plug("atm-0001", Firewall::Open).unwrap();
        Self { protocol, programs: Programs::find().unwrap(), page, directory, device, lab }
    }

    /// Sends `bytes` each way through the tunnel, over IPv4 and IPv6 at once.
    pub(crate) fn transfer(&self, bytes: usize) {
        let (device, company) = self.nodes();
        thread::scope(|scope| {
            scope.spawn(|| transfer::both_ways(device, company, INTRANET_V4.into(), bytes));
            transfer::both_ways(device, company, INTRANET_V6.into(), bytes);
        });
    }

    /// As [`Stage::transfer`], over IPv4 only.
    pub(crate) fn transfer_v4(&self, bytes: usize) {
        let (device, company) = self.nodes();
        transfer::both_ways(device, company, INTRANET_V4.into(), bytes);
    }

    /// Where the device is, and the company.
    pub(crate) fn nodes(&self) -> (&Node, &Node) {
        (&self.device.node, &self.lab.topology().company)
    }

    /// Starts the independent client and waits for its tunnel.
    pub(crate) fn start_client(&self, flow: Flow) -> Independent {
        self.client(flow.name(), &[]).is("up")
    }

    /// Starts the independent client, which asks at this path, and waits for its tunnel.
    pub(crate) fn start_client_at(&self, name: &str, path: &str) -> Independent {
        self.client(name, &["--path", path]).is("up")
    }

    /// Runs the independent client, which asks at this path and is refused.
    pub(crate) fn refused_client(&self, name: &str, path: &str) -> Journal {
        let mut client = self.client(name, &["--path", path]);
        let status = client.process.wait(LIMIT).unwrap();
        assert_eq!(status.code(), Some(1), "{path}: {}", client.process.log());
        client.journal
    }

    fn client(&self, name: &str, arguments: &[&str]) -> Independent {
        let proxy = format!("{GATEWAY_V4}:443");
        let arguments = [&["--proxy", &proxy], arguments].concat();
        self.independent(&self.device.node, "client", "device", name, &arguments)
    }

    /// Starts the independent proxy and waits until it listens.
    pub(crate) fn start_proxy(&self, flow: Flow) -> Independent {
        let listen = format!("{GATEWAY_V4}:443");
        let [route_v4, route_v6] = flow.routes();
        let arguments = ["--listen", &listen, "--pool", POOL_V4, POOL_V6, "--assign", flow.assign()];
        let arguments = [&arguments[..], &["--route", route_v4, route_v6]].concat();
        self.independent(&self.lab.topology().gateway, "server", "gateway", flow.name(), &arguments).is("listening")
    }

    /// Starts `m2m-gateway` and waits until it serves.
    pub(crate) fn start_gateway(&self, flow: Flow) -> OurGateway {
        self.start_gateway_with(flow, "")
    }

    /// The same, with `more` lines in its file.
    pub(crate) fn start_gateway_with(&self, flow: Flow, more: &str) -> OurGateway {
        let file = self.directory.join("gateway.toml");
        let [route_v4, route_v6] = flow.routes();
        let routes = format!("{more}routes = [\"{route_v4}\", \"{route_v6}\"]\n");
        let others = self.page.gateway_toml.lines().filter(|line| !line.starts_with("routes"));
        let text = routes + &others.collect::<Vec<_>>().join("\n");
        fs::write(self.lab.outside(&file), text).unwrap();

        let node = self.lab.topology().gateway.clone();
        let mut command = node.command(&self.programs.path("m2m-gateway").unwrap());
        let process = node.spawn(&format!("gateway-{}", flow.name()), command.arg("--config").arg(&file)).unwrap();
        let mut gateway = OurGateway { node, process };
        let serving = gateway.node.wait_for_tcp(METRICS);
        gateway.process.must_run().unwrap();
        serving.unwrap();
        gateway
    }

    /// Starts `vpnd` and waits for its tunnel.
    pub(crate) fn start_device(&self, flow: Flow) -> OurDevice {
        let file = self.directory.join("vpnd.toml");
        fs::write(self.lab.outside(&file), &self.page.vpnd_toml).unwrap();
        let node = self.device.node.clone();
        let mut command = node.command(&self.programs.path("vpnd").unwrap());
        let mut process = node.spawn(&format!("vpnd-{}", flow.name()), command.arg("--config").arg(&file)).unwrap();
        process.wait_for_log("-> Connected", LIMIT).unwrap();
        let socket = self.directory.join("vpnd.sock").to_str().unwrap().to_owned();
        OurDevice { vpnctl: self.programs.path("vpnctl").unwrap(), socket, node, process }
    }

    fn independent(&self, node: &Node, program: &str, identity: &str, name: &str, arguments: &[&str]) -> Independent {
        let name = format!("{program}-{name}");
        let inside = |name: String| self.directory.join(name).to_str().unwrap().to_owned();
        let journal = inside(format!("{name}.json"));
        let (certificate, key) = (inside(format!("{identity}.pem")), inside(format!("{identity}.key")));
        let trust_anchor = inside("ca.pem".to_owned());
        let mut command = python::command(node, &format!("{program}.py"));
        command.args(["--protocol", self.protocol.argument(), "--certificate", &certificate, "--key", &key]);
        command.args(["--trust-anchor", &trust_anchor, "--journal", &journal]).args(arguments);
        let process = node.spawn(&format!("independent-{name}"), &mut command).unwrap();
        Independent { journal: Journal::at(self.lab.outside(journal)), process }
    }
}

/// A program of the independent implementation.
#[derive(Debug)]
pub(crate) struct Independent {
    pub(crate) journal: Journal,
    process: ChildHandle,
}

impl Independent {
    /// Waits until its journal says so.
    fn is(mut self, ready: &str) -> Self {
        wait_for(&format!("{ready:?} of {}", self.process.name()), LIMIT, || {
            self.process.must_run()?;
            Ok(self.journal.has(ready).then_some(()))
        })
        .unwrap();
        self
    }

    /// Stops it in order; it must have run until now.
    pub(crate) fn stop(&mut self) {
        self.process.must_run().unwrap();
        self.process.stop();
        let status = self.process.wait(LIMIT).unwrap();
        assert!(status.success(), "{}: {status}\n{}", self.process.name(), self.process.log());
    }
}

/// `m2m-gateway`.
#[derive(Debug)]
pub(crate) struct OurGateway {
    node: Node,
    process: ChildHandle,
}

impl OurGateway {
    /// The sessions that it has now.
    pub(crate) fn sessions(&self) -> Vec<Value> {
        let answer = self.node.within(|| -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&METRICS, LIMIT)?;
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"GET /sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        let answer = answer.unwrap().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let mut body: Value = serde_json::from_str(body).unwrap();
        body["sessions"].as_array_mut().map(std::mem::take).unwrap()
    }

    /// Waits until it has noticed that the client left.
    pub(crate) fn wait_for_end_of_session(&mut self) {
        self.process.wait_for_log("session ended", LIMIT).unwrap();
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) {
        self.process.must_run().unwrap();
        self.process.stop();
    }
}

/// `vpnd`.
#[derive(Debug)]
pub(crate) struct OurDevice {
    vpnctl: String,
    socket: String,
    node: Node,
    process: ChildHandle,
}

impl OurDevice {
    /// What `vpnctl status` says.
    pub(crate) fn status(&self) -> Value {
        let output = self.node.exec(&[&self.vpnctl, "--socket", &self.socket, "status", "--json"]).unwrap();
        serde_json::from_str(&output.ok().unwrap()).unwrap()
    }

    /// Stops it in order.
    pub(crate) fn stop(&mut self) {
        self.process.must_run().unwrap();
        self.process.stop();
    }
}
