//! Virtual machines: QEMU with UEFI firmware and a software TPM.

mod accelerator;
mod arguments;
mod disk;
mod qmp;
mod shell;

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

pub use accelerator::{Accelerator, Choice};
use arguments::Hardware;
use disk::Disk;
pub use disk::FlashedImage;
use serde_json::json;
use shell::Shell;

use crate::{
    ChildHandle, LabError, Node, Output, Result, Status, Swtpm, Topology, TpmAttachment,
    holder::{Holder, WORK_DIR},
    process,
    topology::SWITCH,
    wait::wait_for,
};

const QEMU_START: Duration = Duration::from_secs(20);
const SHELL_LIMIT: Duration = Duration::from_secs(60);
const OFF_LIMIT: Duration = Duration::from_secs(60);

/// What a machine is made of.
#[derive(Debug, Clone)]
pub struct MachineOptions {
    /// Unique in the lab, at most 10 characters; names its files.
    pub name: String,
    /// Serial number in the firmware's tables.
    pub serial: String,
    /// What executes its instructions.
    pub accelerator: Accelerator,
    /// What the clock shows at power-on, as QEMU reads it (`1970-01-01T00:00:00`); the right time when None.
    pub clock: Option<String>,
    /// Memory in MiB.
    pub memory_mib: u32,
}

impl MachineOptions {
    /// A machine with 512 MiB and the right time.
    #[must_use]
    pub fn new(name: &str, accelerator: Accelerator) -> Self {
        Self {
            name: name.to_owned(),
            serial: format!("LAB-{}", name.to_uppercase()),
            accelerator,
            clock: None,
            memory_mib: 512,
        }
    }
}

/// A virtual machine on the device link, with a disk and a TPM that stay when it is off.
#[derive(Debug)]
pub struct Machine {
    holder: Arc<Holder>,
    uplink: Node,
    options: MachineOptions,
    disk: Disk,
    tpm: Swtpm,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    qemu: ChildHandle,
    shell: Shell,
    power_on: Instant,
}

impl Machine {
    /// A machine, off, with a disk that was just flashed.
    pub(crate) fn create(
        holder: &Arc<Holder>,
        topology: &Topology,
        options: MachineOptions,
        image: &FlashedImage,
        tpm: Swtpm,
    ) -> Result<Self> {
        let disk = Disk::flash(image, &options.name)?;
        Self::assemble(holder, &topology.device, options, disk, tpm)
    }

    /// Another machine, off, with a copy of this one's disk and a TPM of its own. This one must be off.
    ///
    /// # Errors
    /// When this machine runs or the disk cannot be copied.
    pub fn copy_disk_to(&mut self, options: MachineOptions, tpm: Swtpm) -> Result<Self> {
        if self.is_on() {
            return Err(LabError::answer(&self.options.name, "its disk cannot be copied while it is on"));
        }
        let disk = self.disk.copy(&options.name)?;
        Self::assemble(&self.holder, &self.uplink, options, disk, tpm)
    }

    /// Powers the machine on, and its TPM.
    ///
    /// # Errors
    /// When QEMU does not start or the machine is on.
    pub fn power_on(&mut self) -> Result<()> {
        if self.is_on() {
            return Err(LabError::answer(&self.options.name, "is on already"));
        }
        self.running = None;
        self.tpm.start(TpmAttachment::Machine)?;
        for socket in [self.inside("shell"), self.inside("qmp")] {
            let _ = fs::remove_file(self.holder.outside(socket));
        }
        let mut command = self.uplink.command("qemu-system-x86_64");
        command.args(self.hardware().arguments());
        let power_on = Instant::now();
        let mut qemu = self.uplink.spawn(&format!("{}-qemu", self.options.name), &mut command)?;
        let socket = self.holder.outside(self.inside("shell"));
        let shell = wait_for("QEMU's second serial port", QEMU_START, || {
            qemu.must_run()?;
            Shell::connect(&socket)
        })?;
        self.running = Some(Running { qemu, shell, power_on });
        Ok(())
    }

    /// Changes what the clock shows at the next power-on.
    pub fn set_clock(&mut self, clock: Option<&str>) {
        self.options.clock = clock.map(str::to_owned);
    }

    /// Whether QEMU runs.
    pub fn is_on(&mut self) -> bool {
        self.running.as_mut().is_some_and(|running| running.qemu.is_running())
    }

    /// Time since power-on.
    ///
    /// # Errors
    /// When the machine is off.
    pub fn since_power_on(&self) -> Result<Duration> {
        let running = self.running.as_ref().ok_or_else(|| self.off())?;
        Ok(running.power_on.elapsed())
    }

    /// Waits until the shell answers, and returns when the kernel started, as time since power-on.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it does not answer within `limit`.
    pub fn wait_for_shell(&mut self, limit: Duration) -> Result<Duration> {
        self.shell_within("true", limit)?.ok()?;
        // The kernel counts from its start. Of several readings, the one that came back fastest is the best.
        let mut kernel_start = Duration::MAX;
        for _ in 0..3 {
            let uptime = self.shell("cat /proc/uptime")?.ok()?;
            let now = self.since_power_on()?;
            let seconds = uptime.split_whitespace().next().and_then(|seconds| seconds.parse().ok());
            let seconds = seconds.ok_or_else(|| LabError::answer("/proc/uptime", uptime.clone()))?;
            kernel_start = kernel_start.min(now.saturating_sub(Duration::from_secs_f64(seconds)));
        }
        Ok(kernel_start)
    }

    /// Runs a bash script as root in the machine, at most 60 s; standard output and standard error come as one.
    ///
    /// # Errors
    /// When the machine does not answer; the exit code is the caller's to judge.
    pub fn shell(&mut self, script: &str) -> Result<Output> {
        self.shell_within(script, SHELL_LIMIT)
    }

    /// As [`Machine::shell`] with another limit.
    ///
    /// # Errors
    /// As [`Machine::shell`].
    pub fn shell_within(&mut self, script: &str, limit: Duration) -> Result<Output> {
        let off = self.off();
        let running = self.running.as_mut().ok_or(off)?;
        let output = running.shell.run(script, limit);
        output.map_err(|error| match running.qemu.is_running() {
            true => error,
            false => LabError::answer(&self.options.name, format!("QEMU ended:\n{}", running.qemu.log())),
        })
    }

    /// Runs a script again and again until it exits with 0, and returns its output.
    ///
    /// # Errors
    /// [`LabError::Timeout`], with the last output in it.
    pub fn shell_until(&mut self, what: &str, script: &str, limit: Duration) -> Result<String> {
        let mut last = String::new();
        let result = wait_for(what, limit, || {
            let output = self.shell(script)?;
            if output.success() {
                return Ok(Some(output.stdout));
            }
            last = output.stdout;
            Ok(None)
        });
        result.map_err(|error| match error {
            LabError::Timeout { what, limit } => {
                LabError::Timeout { what: format!("{what} (the last answer was: {})", last.trim()), limit }
            }
            other => other,
        })
    }

    /// What `vpnctl status --json` says in the machine; None as long as vpnd does not answer.
    ///
    /// # Errors
    /// When the machine does not answer or the status cannot be read.
    pub fn status(&mut self) -> Result<Option<Status>> {
        let output = self.shell("vpnctl status --json 2>/dev/null")?;
        if !output.success() {
            return Ok(None);
        }
        Status::parse(&output.stdout).map(Some)
    }

    /// Waits until vpnd is in a state, such as `Connected`, and returns its status.
    ///
    /// # Errors
    /// [`LabError::Timeout`] with the last state in it.
    pub fn wait_for_state(&mut self, state: &str, limit: Duration) -> Result<Status> {
        crate::status::wait(&self.options.name.clone(), state, limit, || self.status())
    }

    /// What executes the machine's instructions.
    #[must_use]
    pub fn accelerator(&self) -> Accelerator {
        self.options.accelerator
    }

    /// Serial number in the firmware's tables.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.options.serial
    }

    /// Everything on the console since the machine was made.
    #[must_use]
    pub fn console(&self) -> String {
        let bytes = fs::read(self.console_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The file that the console goes to, as this process reaches it.
    #[must_use]
    pub fn console_path(&self) -> PathBuf {
        self.holder.outside(self.inside("console.log"))
    }

    /// Sockets of the running machine, for a person: the shell's serial port and QEMU's monitor.
    #[must_use]
    pub fn sockets(&self) -> [PathBuf; 2] {
        [self.holder.outside(self.inside("shell")), self.holder.outside(self.inside("qmp"))]
    }

    /// Pulls the machine's network cable, or plugs it in again.
    ///
    /// # Errors
    /// When QEMU does not answer.
    pub fn set_link(&self, up: bool) -> Result<()> {
        self.monitor("set_link", json!({"name": "uplink", "up": up}))
    }

    /// Shuts the system down in order and waits until the machine is off, at most 60 s.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when the system does not shut down.
    pub fn power_off(&mut self) -> Result<()> {
        // In the background and a moment later: the shell ends with the system, and its answer would be lost.
        self.shell("(sleep 0.3; systemctl poweroff --no-block) >/dev/null 2>&1 </dev/null &")?.ok()?;
        let off = self.off();
        let running = self.running.as_mut().ok_or(off)?;
        running.qemu.wait(OFF_LIMIT)?;
        self.running = None;
        self.tpm.stop();
        Ok(())
    }

    /// Cuts the power, of the TPM too.
    pub fn power_cut(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.qemu.kill();
        }
        self.tpm.stop();
    }

    fn assemble(holder: &Arc<Holder>, uplink: &Node, options: MachineOptions, disk: Disk, tpm: Swtpm) -> Result<Self> {
        let machine = Self { holder: Arc::clone(holder), uplink: uplink.clone(), options, disk, tpm, running: None };
        let tap = machine.tap();
        machine.uplink.ip(&format!("tuntap add dev {tap} mode tap"))?;
        machine.uplink.ip(&format!("link set {tap} master {SWITCH} up"))?;
        let mut copy = holder.command(None, "cp");
        process::check(copy.arg(arguments::firmware()?.variables).arg(machine.inside("efi-vars")))?;
        Ok(machine)
    }

    fn hardware(&self) -> Hardware<'_> {
        Hardware {
            options: &self.options,
            disk: self.disk.path(),
            variables: self.inside("efi-vars"),
            tap: self.tap(),
            tpm: self.tpm.control_socket(),
            console: self.inside("console.log"),
            shell: self.inside("shell"),
            monitor: self.inside("qmp"),
        }
    }

    fn monitor(&self, command: &str, arguments: serde_json::Value) -> Result<()> {
        qmp::execute(&self.holder.outside(self.inside("qmp")), command, arguments).map(drop)
    }

    fn tap(&self) -> String {
        format!("tap-{}", self.options.name)
    }

    fn inside(&self, part: &str) -> PathBuf {
        PathBuf::from(format!("{WORK_DIR}/{}-{part}", self.options.name))
    }

    fn off(&self) -> LabError {
        LabError::answer(&self.options.name, "the machine is off")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.power_cut();
    }
}
