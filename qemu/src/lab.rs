use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicU8},
};

use crate::{
    Accelerator, Capture, ChildHandle, Daemon, DeviceNode, Firewall, FlashedImage, Gateway, LabError, Machine,
    MachineOptions, Manager, ManagerOptions, Node, Result, Routing, Swtpm, Topology, WebServer,
    addresses::{ROUTER_V4, ROUTER_V6},
    dnsmasq,
    holder::{Holder, WORK_DIR},
    machine::Choice,
    process,
    servers::{FIRST, SECOND},
    service::Service,
    sntp,
    swtpm::EkCa,
};

/// What a lab starts with.
#[derive(Debug, Clone, Default)]
pub struct LabOptions {
    /// Text on the company's web page; empty for a fixed one.
    pub token: String,
    /// Two gateways in one site: a routing daemon on both and on the company's host, and gateways that share an address book.
    pub routing: bool,
}

/// A running network of routers, servers and devices, all inside of one private set of namespaces.
///
/// Everything ends with it: dropped, or with the process, however that ends. Drop what runs in it first, or not at all.
///
/// When a test panics, the end of every log of its lab goes to standard error.
#[derive(Debug)]
pub struct Lab {
    // Fields are dropped in this order.
    capture: Option<Capture>,
    web: WebServer,
    _sntp: [Service; 2],
    _servers: [ChildHandle; 2],
    routing: Option<Routing>,
    topology: Topology,
    ek_ca: EkCa,
    ports: AtomicU8,
    holder: Arc<Holder>,
}

impl Lab {
    /// Makes hosts, links and the services of internet and company, and starts the capture of the device link.
    ///
    /// # Errors
    /// When a tool is missing or this process is not root.
    pub fn start(options: LabOptions) -> Result<Self> {
        let holder = Arc::new(Holder::start()?);
        let topology = Topology::create(&holder)?;
        let capture = Capture::start(&topology.internet, |inside| holder.outside(inside))?;
        let servers = [dnsmasq::serve_uplink(&topology.internet)?, dnsmasq::serve_company(&topology.company)?];
        let routing = if options.routing { Some(Routing::start(&topology)?) } else { None };
        let token = if options.token.is_empty() { "intranet" } else { &options.token };
        Ok(Self {
            capture: Some(capture),
            web: WebServer::start(&topology.company, token)?,
            _sntp: [
                sntp::serve(&topology.internet, ROUTER_V4.into())?,
                sntp::serve(&topology.internet, ROUTER_V6.into())?,
            ],
            _servers: servers,
            routing,
            ek_ca: EkCa::create(&holder)?,
            topology,
            ports: AtomicU8::new(0),
            holder,
        })
    }

    /// The hosts.
    #[must_use]
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The routing daemons.
    ///
    /// # Errors
    /// In a lab without [`LabOptions::routing`].
    pub fn routing(&mut self) -> Result<&mut Routing> {
        self.routing.as_mut().ok_or_else(|| LabError::answer("routing", "this lab has none (LabOptions::routing)"))
    }

    /// The company's web server.
    #[must_use]
    pub fn web(&self) -> &WebServer {
        &self.web
    }

    /// The capture of the device link.
    ///
    /// # Errors
    /// After [`Lab::finish_capture`].
    pub fn capture(&mut self) -> Result<&mut Capture> {
        self.capture.as_mut().ok_or_else(|| LabError::answer("capture", "has been finished"))
    }

    /// Ends the capture and returns its file, which lasts as long as the lab.
    ///
    /// # Errors
    /// When the capture lost packets.
    pub fn finish_capture(&mut self) -> Result<PathBuf> {
        let capture = self.capture.take().ok_or_else(|| LabError::answer("capture", "has been finished"))?;
        capture.finish()
    }

    /// Plugs a new network namespace, with addresses and routes, into the device link.
    ///
    /// # Errors
    /// When the name is taken or the firewall cannot be loaded.
    pub fn plug(&self, name: &str, firewall: Firewall) -> Result<DeviceNode> {
        DeviceNode::plug(&self.holder, &self.topology, &self.ports, name, firewall)
    }

    /// The file of a capture that was ended by [`Lab::finish_capture`].
    ///
    /// # Errors
    /// [`LabError::Missing`] when there is none.
    pub fn captured(&self) -> Result<PathBuf> {
        let path = self.outside(format!("{WORK_DIR}/uplink.pcap"));
        if path.is_file() {
            return Ok(path);
        }
        Err(LabError::Missing { path, hint: "end the capture first".to_owned() })
    }

    /// Makes a TPM with its own EK and a certificate of the lab's EK CA; `name` is unique in this lab.
    ///
    /// # Errors
    /// When `swtpm_setup` fails.
    pub fn tpm(&self, name: &str) -> Result<Swtpm> {
        Swtpm::create(&self.holder, name)
    }

    /// A manager, not started yet.
    ///
    /// # Errors
    /// When the program is missing.
    pub fn manager(&self, options: &ManagerOptions) -> Result<Manager> {
        Manager::create(&self.topology.manager, options)
    }

    /// A gateway with a certificate of `manager`, not started yet.
    ///
    /// # Errors
    /// When the program is missing or the manager gives no certificate.
    pub fn gateway(&self, manager: &Manager) -> Result<Gateway> {
        Gateway::create(&self.holder, &self.topology.gateway, &FIRST, self.routing.is_some(), manager)
    }

    /// The second gateway of the site, not started yet.
    ///
    /// # Errors
    /// As [`Lab::gateway`], and in a lab without [`LabOptions::routing`].
    pub fn second_gateway(&self, manager: &Manager) -> Result<Gateway> {
        if self.routing.is_none() {
            return Err(LabError::answer("the second gateway", "has no address book without LabOptions::routing"));
        }
        Gateway::create(&self.holder, &self.topology.gateway2, &SECOND, true, manager)
    }

    /// A device that is a process, in a namespace of its own; without a TPM when `tpm` is None. It has no first-boot
    /// file yet and does not run.
    ///
    /// # Errors
    /// When the name is taken.
    pub fn daemon(&self, name: &str, tpm: Option<Swtpm>) -> Result<Daemon> {
        Daemon::create(&self.holder, self.plug(name, Firewall::Product)?, tpm)
    }

    /// Flashes `image` with a first-boot file, as the integrator does; `name` is unique in this lab.
    ///
    /// # Errors
    /// When there is no such image or `m2m-image` refuses the first-boot file.
    pub fn flash(&self, name: &str, image: &Path, first_boot: Option<&str>) -> Result<FlashedImage> {
        FlashedImage::create(&self.holder, name, image, first_boot)
    }

    /// Decides between emulation and KVM, which is tried first where it is wanted.
    ///
    /// # Errors
    /// When KVM was demanded and does not work.
    pub fn accelerator(&self, choice: Choice) -> Result<Accelerator> {
        choice.resolve(&self.holder)
    }

    /// Builds a machine around a flashed image and a TPM. It is off.
    ///
    /// # Errors
    /// When there is no firmware or the name is taken.
    pub fn machine(&self, options: MachineOptions, image: &FlashedImage, tpm: Swtpm) -> Result<Machine> {
        Machine::create(&self.holder, &self.topology, options, image, tpm)
    }

    /// Certificates of the lab's EK CA, PEM, as a path inside of the lab. There is one after the first [`Lab::tpm`].
    ///
    /// # Errors
    /// [`LabError::Missing`] before.
    pub fn ek_ca_file(&self) -> Result<PathBuf> {
        self.ek_ca.certificates()
    }

    /// The path by which this process reaches `inside`, an absolute path in the lab.
    #[must_use]
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.holder.outside(inside)
    }

    /// Makes a directory in the lab's work directory and returns its path inside of the lab.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let inside = PathBuf::from(WORK_DIR).join(name);
        let outside = self.outside(&inside);
        fs::create_dir_all(&outside).map_err(LabError::io(format!("make {}", outside.display())))?;
        Ok(inside)
    }

    /// Process id, as seen from outside, of the process that holds all namespaces of this lab.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.holder.init_pid()
    }

    /// Words that, put in front of a command, run it in a node of this lab from any shell on this machine.
    #[must_use]
    pub fn shell_prefix(&self, node: &Node) -> String {
        let command = node.command("");
        let words = command.get_args().map(|word| word.to_string_lossy().into_owned());
        format!("nsenter {}", words.collect::<Vec<_>>().join(" ")).trim_end().to_owned()
    }

    /// Logs of everything that runs or ran in the lab: file name and end of its text.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, String)> {
        let Ok(entries) = fs::read_dir(self.outside(WORK_DIR)) else {
            return Vec::new();
        };
        let mut logs: Vec<_> = entries
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "log"))
            .map(|entry| {
                let text = fs::read(entry.path()).unwrap_or_default();
                let name = entry.file_name().to_string_lossy().into_owned();
                (name, process::tail(&String::from_utf8_lossy(&text)))
            })
            .collect();
        logs.sort();
        logs
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, text) in self.logs() {
                eprintln!("---- {name}\n{text}");
            }
        }
    }
}
