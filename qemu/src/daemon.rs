use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    ChildHandle, DeviceNode, LabError, Manager, Output, Result, Status, Swtpm, TpmAttachment,
    addresses::{ROUTER_V4, ROUTER_V6},
    device_link::UPLINK,
    holder::{Holder, WORK_DIR},
    programs::Programs,
};

/// The user of vpnd in the image (image-config/files/usr/lib/sysusers.d), which the firewall knows by number.
const VPND_UID: u32 = 800;

/// vpnd as a process: in a namespace of its own with the product's firewall, as the image's user with `CAP_NET_ADMIN`
/// only, against a software TPM.
#[derive(Debug)]
pub struct Daemon {
    holder: Arc<Holder>,
    device: DeviceNode,
    name: String,
    serial: String,
    tpm: Option<Swtpm>,
    running: Option<ChildHandle>,
}

impl Daemon {
    /// Makes directories and configuration, without a first-boot file; nothing runs yet.
    pub(crate) fn create(holder: &Arc<Holder>, device: DeviceNode, tpm: Option<Swtpm>) -> Result<Self> {
        let name = device.node.name().to_owned();
        let daemon = Self {
            holder: Arc::clone(holder),
            serial: format!("LAB-{}", name.to_uppercase()),
            device,
            name,
            tpm,
            running: None,
        };
        daemon.make_own(&daemon.path(""))?;
        daemon.make_own(&daemon.path("state"))?;
        let tcti =
            daemon.tpm.as_ref().map_or_else(|| format!("swtpm:path={}", daemon.path("no-tpm").display()), Swtpm::tcti);
        daemon.write(
            "vpnd.toml",
            &format!(
                "state_dir = \"{state}\"
socket = \"{socket}\"
first_boot = \"{first_boot}\"
machine = \"{machine}\"
dns = \"none\"
resolvers = [\"{ROUTER_V4}\", \"{ROUTER_V6}\"]

[identity.tpm]
tcti = \"{tcti}\"
",
                state = daemon.path("state").display(),
                socket = daemon.path("vpnd.sock").display(),
                first_boot = daemon.path("first-boot.toml").display(),
                machine = daemon.path("machine.json").display(),
            ),
        )?;
        let hostname = daemon.name.clone();
        daemon
            .write("machine.json", &serde_json::json!({"serial": daemon.serial, "hostname": hostname}).to_string())?;
        Ok(daemon)
    }

    /// The namespace that it runs in.
    #[must_use]
    pub fn device(&self) -> &DeviceNode {
        &self.device
    }

    /// The machine's serial number.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Writes the first-boot file that a manager's administrator hands out.
    ///
    /// # Errors
    /// When the manager's trust anchor cannot be had.
    pub fn set_manager(&self, manager: &Manager) -> Result<()> {
        let uplink = format!(
            "
[[uplink]]
match = \"{UPLINK}\"
method = \"static\"
addresses = [\"{}/24\", \"{}/64\"]
gateways = [\"{ROUTER_V4}\", \"{ROUTER_V6}\"]
dns = [\"{ROUTER_V4}\"]
",
            self.device.v4, self.device.v6
        );
        self.set_first_boot(&format!("{}{uplink}", manager.first_boot_head()?))
    }

    /// Writes any text as the first-boot file.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_first_boot(&self, text: &str) -> Result<()> {
        self.write("first-boot.toml", text)
    }

    /// Copies the persistent state of another device, as a thief copies a disk. Both must not run.
    ///
    /// # Errors
    /// When a file cannot be copied.
    pub fn copy_state_from(&self, other: &Daemon) -> Result<()> {
        let mut command = self.holder.command(None, "cp");
        let from = other.path("state/.");
        crate::process::check(command.args(["-a"]).arg(from).arg(self.path("state")))
    }

    /// Powers the TPM on and starts vpnd. The TPM stays on when vpnd ends, until [`Daemon::reboot`].
    ///
    /// # Errors
    /// When one of them does not start.
    pub fn start(&mut self) -> Result<()> {
        self.running = None;
        if let Some(tpm) = &mut self.tpm
            && !tpm.is_running()
        {
            tpm.start(TpmAttachment::Process)?;
        }
        let program = self.program("vpnd")?;
        let mut command = self.device.node.command("setpriv");
        let id = VPND_UID.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--no-new-privs"]);
        command.args(["--bounding-set", "-all,+net_admin", "--inh-caps", "-all,+net_admin"]);
        command.args(["--ambient-caps", "+net_admin", "--"]).arg(program);
        command.arg("--config").arg(self.path("vpnd.toml"));
        self.running = Some(self.device.node.spawn(&format!("{}-vpnd", self.name), &mut command)?);
        Ok(())
    }

    /// Stops vpnd in order.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop();
        }
    }

    /// Ends vpnd as a crash would (SIGKILL).
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill();
        }
    }

    /// Ends vpnd, cycles the TPM's power and starts vpnd again.
    ///
    /// # Errors
    /// As [`Daemon::start`].
    pub fn reboot(&mut self) -> Result<()> {
        self.stop();
        if let Some(tpm) = &mut self.tpm {
            tpm.stop();
        }
        self.start()
    }

    /// What `vpnctl status --json` says; None as long as vpnd does not answer.
    ///
    /// # Errors
    /// When vpnd has ended or the answer cannot be read.
    pub fn status(&mut self) -> Result<Option<Status>> {
        if let Some(running) = &mut self.running {
            running.must_run()?;
        }
        let output = self.vpnctl(&["status", "--json"])?;
        if !output.success() {
            return Ok(None);
        }
        Status::parse(&output.stdout).map(Some)
    }

    /// Runs `vpnctl`.
    ///
    /// # Errors
    /// When it cannot be started; its exit code is the caller's to judge.
    pub fn vpnctl(&self, words: &[&str]) -> Result<Output> {
        let (program, socket) = (self.program("vpnctl")?, self.path("vpnd.sock"));
        let socket = socket.to_string_lossy();
        let mut all = vec![program.as_str(), "--socket", &socket];
        all.extend(words);
        self.device.node.exec(&all)
    }

    /// Waits until vpnd is in a state, such as `Connected`, and returns its status.
    ///
    /// # Errors
    /// [`LabError::Timeout`] with the last state in it.
    pub fn wait_for_state(&mut self, state: &str, limit: Duration) -> Result<Status> {
        crate::status::wait(&self.name.clone(), state, limit, || self.status())
    }

    /// Waits until a line of vpnd's log contains `text` and returns that line.
    ///
    /// # Errors
    /// As [`ChildHandle::wait_for_log`].
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<String> {
        match &mut self.running {
            Some(running) => running.wait_for_log(text, limit),
            None => Err(LabError::answer(&self.name, "vpnd does not run")),
        }
    }

    /// Everything that vpnd has logged, over all its starts.
    #[must_use]
    pub fn log(&self) -> String {
        let path = self.holder.outside(format!("{WORK_DIR}/{}-vpnd.log", self.name));
        let bytes = fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Process id of vpnd as seen from outside, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.running.as_ref().map(ChildHandle::pid)
    }

    /// The directory of vpnd's persistent state, as this process reaches it.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.holder.outside(self.path("state"))
    }

    fn path(&self, part: &str) -> PathBuf {
        Path::new(WORK_DIR).join(&self.name).join(part)
    }

    /// The programs' directory may be one that only root can enter: vpnd's user sees it mounted in the lab.
    fn program(&self, name: &str) -> Result<String> {
        let mounted = PathBuf::from(format!("{WORK_DIR}/bin"));
        let programs = Programs::find()?;
        programs.path(name)?;
        let outside = self.holder.outside(&mounted);
        if !outside.join(name).exists() {
            fs::create_dir_all(&outside).map_err(LabError::io("make a mount point"))?;
            let mut command = self.holder.command(None, "mount");
            crate::process::check(command.arg("--bind").arg(programs.directory()).arg(&mounted))?;
        }
        Ok(mounted.join(name).to_string_lossy().into_owned())
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.holder.outside(self.path(name));
        fs::write(&path, text).map_err(LabError::io(format!("write {}", path.display())))
    }

    fn make_own(&self, inside: &Path) -> Result<()> {
        let path = self.holder.outside(inside);
        fs::create_dir_all(&path)
            .and_then(|()| std::os::unix::fs::chown(&path, Some(VPND_UID), Some(VPND_UID)))
            .map_err(LabError::io(format!("make {}", path.display())))
    }
}
