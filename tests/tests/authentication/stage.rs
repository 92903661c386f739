//! A gateway that takes any device of its CA, and devices with an identity of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use m2m_lab::addresses::{INTRANET_NAME, INTRANET_V4};
use m2m_lab::{ChildHandle, DeviceNode, Firewall, Lab, LabOptions, Programs};
use m2m_tests::{AuthenticationSection, StandalonePage, shell};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// A lab with the certificates of `docs/standalone.md`, and its gateway.
#[derive(Debug)]
pub(crate) struct Stage {
    page: StandalonePage,
    programs: Programs,
    _gateway: ChildHandle,
    device: DeviceNode,
    directory: PathBuf,
    lab: Lab,
}

impl Stage {
    pub(crate) fn set() -> Self {
        let lab = Lab::start(LabOptions { token: "authentication".to_owned(), ..LabOptions::default() }).unwrap();
        let directory = lab.directory("authentication").unwrap();
        let page = StandalonePage::moved_to(directory.to_str().unwrap()).unwrap();
        let node = lab.topology().gateway.clone();
        shell(&node, &directory, &page.certificates).unwrap();
        let file = directory.join("gateway.toml");
        fs::write(lab.outside(&file), &page.gateway_toml).unwrap();
        let programs = Programs::find().unwrap();
        let mut command = node.command(&programs.path("m2m-gateway").unwrap());
        let gateway = node.spawn("gateway", command.arg("--config").arg(&file)).unwrap();
        node.wait_for_tcp(([127, 0, 0, 1], 9184)).unwrap();
        let device = lab.plug("atm-0001", Firewall::Open).unwrap();
        Self { page, programs, _gateway: gateway, device, directory, lab }
    }

    /// Where the device's files are, as it sees them.
    pub(crate) fn place(&self) -> &str {
        self.directory.to_str().unwrap()
    }

    /// What `docs/authentication.md` has under this heading, its commands run.
    pub(crate) fn documented(&self, heading: &str) -> String {
        self.documented_with(heading, &[])
    }

    /// The same, with other words in the commands.
    pub(crate) fn documented_with(&self, heading: &str, others: &[(&str, &str)]) -> String {
        let AuthenticationSection { commands, table } = AuthenticationSection::moved_to(heading, self.place()).unwrap();
        let commands = others.iter().fold(commands, |commands, (word, other)| {
            assert!(commands.contains(word), "{word} in {commands}");
            commands.replace(word, other)
        });
        self.prepare(&commands);
        table
    }

    /// Runs a script beside the certificates.
    pub(crate) fn prepare(&self, script: &str) {
        let programs = Path::new(&self.programs.path("vpnctl").unwrap()).parent().unwrap().display().to_string();
        let environment = format!("export SOFTHSM2_CONF=$PWD/softhsm2.conf PATH=\"{programs}:$PATH\"");
        shell(&self.device.node, &self.directory, &format!("{environment}\n{script}")).unwrap();
    }

    /// A device with these tables in place of `[identity.pem]` opens its tunnel and reaches the company.
    /// `vpnctl auth` says so.
    pub(crate) fn connects(&self, name: &str, identity: &str) {
        let mut daemon = self.start(name, identity);
        daemon.wait_for_log("-> Connected", LIMIT).unwrap();
        let fetch = format!("curl --silent --max-time 10 --header 'Host: {INTRANET_NAME}' http://{INTRANET_V4}/");
        assert_eq!(shell(&self.device.node, &self.directory, &fetch).unwrap(), "m2mvpn lab authentication\n", "{name}");
        let authentication = self.authentication();
        assert!(identity.starts_with(&format!("[identity.{}]", authentication["method"].as_str().unwrap())));
        assert_eq!(authentication["last"]["accepted"], true, "{authentication}");
        let certificate = &authentication["certificate"];
        assert_eq!(
            (&certificate["subject"], &certificate["issuer"]),
            (&json!("CN=atm-0001"), &json!("CN=Example root"))
        );
        self.stop(daemon);
    }

    /// A device with these tables gets no tunnel, and says this.
    pub(crate) fn is_refused(&self, name: &str, identity: &str, words: &str) {
        let mut daemon = self.start(name, identity);
        let line = daemon.wait_for_log("NotProvisioned: ", LIMIT).unwrap();
        assert!(line.contains(words), "{name}: {line}");
        let authentication = self.authentication();
        assert_eq!(authentication["last"]["accepted"], false, "{authentication}");
        assert!(authentication["last"]["reason"].as_str().unwrap().contains(words), "{authentication}");
        self.stop(daemon);
    }

    /// What `vpnctl auth` says.
    fn authentication(&self) -> Value {
        let vpnctl = self.programs.path("vpnctl").unwrap();
        let socket = self.directory.join("vpnd.sock");
        let command = [&vpnctl, "--socket", socket.to_str().unwrap(), "auth", "--json"];
        serde_json::from_str(&self.device.node.exec(&command).unwrap().ok().unwrap()).unwrap()
    }

    fn start(&self, name: &str, identity: &str) -> ChildHandle {
        let (before, rest) = self.page.vpnd_toml.split_once("[identity.pem]").unwrap();
        let (_, behind) = rest.split_once("[[tunnel.gateway]]").unwrap();
        let file = self.directory.join(format!("{name}.toml"));
        fs::write(self.lab.outside(&file), format!("{before}{identity}\n[[tunnel.gateway]]{behind}")).unwrap();
        let mut command = self.device.node.command(&self.programs.path("vpnd").unwrap());
        command.env("RUST_LOG", "debug").env("SOFTHSM2_CONF", self.directory.join("softhsm2.conf"));
        self.device.node.spawn(name, command.arg("--config").arg(&file)).unwrap()
    }

    /// Stops it. Nothing of what it said is a PIN.
    fn stop(&self, mut daemon: ChildHandle) {
        daemon.must_run().unwrap();
        for pin in ["471147", "111111", "4711-äöü"] {
            assert!(!daemon.log().contains(pin), "{}", daemon.log());
        }
        daemon.stop();
        daemon.wait(LIMIT).unwrap();
    }
}
