use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    ChildHandle, LabError, Node, Output, Result,
    addresses::{COMPANY_DOMAIN, COMPANY_NETWORKS, GATEWAY_NAME, INTRANET_V4, MANAGER_NAME, MANAGER_V4, MANAGER_V6},
    holder::WORK_DIR,
    programs::Programs,
};

/// What a manager is configured with, besides the lab's names and addresses.
#[derive(Debug, Clone)]
pub struct ManagerOptions {
    /// How often a device that waits for approval asks again, in the configuration's notation.
    pub pending_retry: String,
    /// Names of the gateways that devices are told of, the preferred one first.
    pub gateways: Vec<String>,
    /// A name for its state: two managers with different names have different CAs.
    pub name: String,
    /// The port that it listens on. Devices always come to 443: another port leaves room for something in between.
    pub port: u16,
}

impl Default for ManagerOptions {
    fn default() -> Self {
        Self {
            pending_retry: "2s".to_owned(),
            gateways: vec![GATEWAY_NAME.to_owned()],
            name: "manager".to_owned(),
            port: 443,
        }
    }
}

/// `m2m-manager` on the lab's host `manager`, reached as `https://manager.example`.
#[derive(Debug)]
pub struct Manager {
    node: Node,
    program: String,
    name: String,
    port: u16,
    configuration: PathBuf,
    server: Option<ChildHandle>,
}

/// What the manager knows of a device, from `device list --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct DeviceRecord {
    /// The device's id.
    pub id: String,
    /// The machine's serial number.
    pub serial: String,
    /// `pending`, `approved` or `revoked`.
    pub state: String,
    /// Why it is in that state.
    #[serde(default)]
    pub reason: String,
    /// Its good certificate.
    #[serde(default)]
    pub certificate: Option<Value>,
}

impl DeviceRecord {
    /// Serial number of its good certificate.
    #[must_use]
    pub fn certificate_serial(&self) -> Option<&str> {
        self.certificate.as_ref()?.get("serial")?.as_str()
    }
}

impl Manager {
    /// Writes the configuration; the CA is made by the first command or start.
    pub(crate) fn create(node: &Node, options: &ManagerOptions) -> Result<Self> {
        let [company_v4, company_v6] = COMPANY_NETWORKS;
        let text = format!(
            "version = 1
listen = [\"0.0.0.0:{port}\", \"[::]:{port}\"]
state_dir = \"{WORK_DIR}/{name}\"
names = [\"{MANAGER_NAME}\", \"{MANAGER_V4}\", \"{MANAGER_V6}\"]
pending_retry = \"{retry}\"

[device_defaults]
mode = \"always-on\"
routes = [\"{company_v4}\", \"{company_v6}\"]
{gateways}
[device_defaults.dns]
servers = [\"{INTRANET_V4}\"]
search = [\"{COMPANY_DOMAIN}\"]
",
            gateways = gateways(&options.gateways),
            name = options.name,
            retry = options.pending_retry,
            port = options.port,
        );
        Ok(Self {
            node: node.clone(),
            program: Programs::find()?.path("m2m-manager")?,
            name: options.name.clone(),
            port: options.port,
            configuration: node.write_file(&format!("{}.toml", options.name), &text)?,
            server: None,
        })
    }

    /// Starts the server and waits until it accepts connections.
    ///
    /// # Errors
    /// When it ends or does not listen.
    pub fn start(&mut self) -> Result<()> {
        let mut command = self.node.command(&self.program);
        command.arg("--config").arg(&self.configuration);
        let mut server = self.node.spawn(&self.name, &mut command)?;
        let listening = self.node.wait_for_tcp((MANAGER_V4, self.port));
        server.must_run()?;
        listening?;
        self.server = Some(server);
        Ok(())
    }

    /// Stops the server in order; its commands still work.
    pub fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.stop();
        }
    }

    /// Runs one of the manager's commands, such as `["device", "list"]`.
    ///
    /// # Errors
    /// When it cannot be started; its exit code is the caller's to judge.
    pub fn command(&self, words: &[&str]) -> Result<Output> {
        let configuration = self.configuration.to_string_lossy().into_owned();
        let mut all = vec![self.program.as_str(), "--config", &configuration];
        all.extend(words);
        self.node.exec(&all)
    }

    /// The trust anchor that goes into images, PEM.
    ///
    /// # Errors
    /// When the command fails.
    pub fn trust_anchor(&self) -> Result<String> {
        self.command(&["ca", "show", "--pem"])?.ok()
    }

    /// Lets in every TPM whose endorsement key certificate chains to `file`, a path inside of the lab; only with one of
    /// the serial numbers, if there are any.
    ///
    /// # Errors
    /// When the command fails.
    pub fn accept_ek_ca(&self, file: &std::path::Path, serials: &[&str]) -> Result<()> {
        let file = file.to_string_lossy();
        let mut words = vec!["ek-ca", "add", &file];
        for serial in serials {
            words.extend(["--serial", serial]);
        }
        self.command(&words)?.ok().map(drop)
    }

    /// The port that it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.program
    }

    /// The configuration file, as a path inside of the lab.
    #[must_use]
    pub fn configuration(&self) -> &std::path::Path {
        &self.configuration
    }

    /// All devices.
    ///
    /// # Errors
    /// When the command fails or its JSON is not as expected.
    pub fn devices(&self) -> Result<Vec<DeviceRecord>> {
        let text = self.command(&["device", "list", "--json"])?.ok()?;
        serde_json::from_str(&text).map_err(|error| LabError::answer("m2m-manager device list", error.to_string()))
    }

    /// The device with a serial number, if the manager knows it.
    ///
    /// # Errors
    /// As [`Manager::devices`].
    pub fn device(&self, serial: &str) -> Result<Option<DeviceRecord>> {
        Ok(self.devices()?.into_iter().find(|device| device.serial == serial))
    }

    /// Lets a waiting device in.
    ///
    /// # Errors
    /// When the command fails.
    pub fn approve(&self, device: &str) -> Result<()> {
        self.command(&["device", "approve", device])?.ok().map(drop)
    }

    /// Shuts a device out.
    ///
    /// # Errors
    /// When the command fails.
    pub fn revoke(&self, device: &str) -> Result<()> {
        self.command(&["device", "revoke", device])?.ok().map(drop)
    }

    /// The first-boot file for a machine on the device link, which gets its addresses by DHCP.
    ///
    /// # Errors
    /// When the trust anchor cannot be had.
    pub fn first_boot(&self) -> Result<String> {
        Ok(format!(
            "{}
[[uplink]]
match = \"en*\"
priority = 1
method = \"dhcp\"
",
            self.first_boot_head()?
        ))
    }

    /// The first-boot file without its uplinks.
    pub(crate) fn first_boot_head(&self) -> Result<String> {
        Ok(format!(
            "version = 1

[manager]
url = \"https://{MANAGER_NAME}\"
trust_anchor = \"\"\"
{}
\"\"\"

[device]
hostname = \"lab-{{serial}}\"
label = \"lab\"
",
            self.trust_anchor()?.trim()
        ))
    }

    /// Resident memory of the server in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        self.server.as_ref()?.resident_bytes()
    }

    /// Everything the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.server.as_ref().map(ChildHandle::log).unwrap_or_default()
    }

    /// A time within which the gateway has the revocation of a device.
    #[must_use]
    pub fn revocation_limit() -> Duration {
        Duration::from_secs(30)
    }
}

fn gateways(names: &[String]) -> String {
    let table = |(priority, name): (usize, &String)| {
        format!("\n[[device_defaults.gateway]]\norigin = \"https://{name}\"\npriority = {priority}\n")
    };
    names.iter().enumerate().map(table).collect()
}
