use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::Duration,
};

use crate::{
    ChildHandle, LabError, Result,
    holder::{Holder, WORK_DIR},
    process,
    wait::wait_until,
};

const START: Duration = Duration::from_secs(10);

/// The local CA that signs EK certificates: it stands for the maker of the TPMs.
#[derive(Debug)]
pub(crate) struct EkCa {
    holder: Arc<Holder>,
}

impl EkCa {
    /// Writes the CA's configuration; the CA itself is made with the first TPM.
    pub(crate) fn create(holder: &Arc<Holder>) -> Result<Self> {
        let ca = Self { holder: Arc::clone(holder) };
        let dir = format!("{WORK_DIR}/ek-ca");
        ca.write(
            "setup.conf",
            &format!(
                "create_certs_tool = /usr/bin/swtpm_localca
create_certs_tool_config = {dir}/localca.conf
create_certs_tool_options = {dir}/localca.options
"
            ),
        )?;
        ca.write(
            "localca.conf",
            &format!(
                "statedir = {dir}
signingkey = {dir}/signkey.pem
issuercert = {dir}/issuercert.pem
certserial = {dir}/certserial
"
            ),
        )?;
        ca.write(
            "localca.options",
            "--platform-manufacturer m2mvpn-lab\n--platform-version 1.0\n--platform-model QEMU\n",
        )?;
        Ok(ca)
    }

    /// The CA's root certificate followed by the issuing one, PEM, as a path inside of the lab.
    ///
    /// # Errors
    /// [`LabError::Missing`] before the first TPM is made.
    pub(crate) fn certificates(&self) -> Result<PathBuf> {
        let dir = self.holder.outside(format!("{WORK_DIR}/ek-ca"));
        let mut bundle = String::new();
        for name in ["swtpm-localca-rootca-cert.pem", "issuercert.pem"] {
            let path = dir.join(name);
            let pem = fs::read_to_string(&path).map_err(|_| LabError::Missing {
                path: path.clone(),
                hint: "make a TPM first, it brings its maker's CA".to_owned(),
            })?;
            bundle.push_str(pem.trim_end());
            bundle.push('\n');
        }
        self.write("ek-ca.pem", &bundle)
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let inside = PathBuf::from(WORK_DIR).join("ek-ca").join(name);
        let outside = self.holder.outside(&inside);
        if let Some(dir) = outside.parent() {
            fs::create_dir_all(dir).map_err(LabError::io("make the EK CA's directory"))?;
        }
        fs::write(&outside, text).map_err(LabError::io(format!("write {}", outside.display())))?;
        Ok(inside)
    }
}

/// A software TPM 2.0 with its own seeds and an EK certificate of the lab's CA. It keeps its state while it is off.
#[derive(Debug)]
pub struct Swtpm {
    holder: Arc<Holder>,
    name: String,
    running: Option<ChildHandle>,
}

/// How a TPM is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TpmAttachment {
    /// A process opens it through the TCTI [`Swtpm::tcti`].
    Process,
    /// QEMU's TPM device opens it through [`Swtpm::control_socket`].
    Machine,
}

impl Swtpm {
    /// Makes a TPM; `name` is unique in the lab.
    pub(crate) fn create(holder: &Arc<Holder>, name: &str) -> Result<Self> {
        let tpm = Self { holder: Arc::clone(holder), name: name.to_owned(), running: None };
        let state = tpm.path("state");
        let outside = holder.outside(&state);
        fs::create_dir_all(&outside).map_err(LabError::io(format!("make {}", outside.display())))?;
        process::check(
            holder
                .command(None, "swtpm_setup")
                .args(["--tpm2", "--create-ek-cert", "--runas", "root", "--tpmstate"])
                .arg(&state)
                .args(["--config", &format!("{WORK_DIR}/ek-ca/setup.conf")]),
        )?;
        Ok(tpm)
    }

    /// Powers the TPM on. Call it after every power-off of what it is attached to.
    ///
    /// # Errors
    /// When `swtpm` does not start.
    pub fn start(&mut self, attachment: TpmAttachment) -> Result<()> {
        self.stop();
        let mut command: Command = self.holder.command(None, "swtpm");
        command.args(["socket", "--tpm2", "--runas", "root", "--tpmstate"]);
        command.arg(format!("dir={}", self.path("state").display()));
        command.arg("--ctrl").arg(format!("type=unixio,path={}", self.control_socket().display()));
        let mut socket = self.control_socket();
        if attachment == TpmAttachment::Process {
            socket = self.path("socket");
            command.arg("--server").arg(format!("type=unixio,path={}", socket.display()));
            command.args(["--flags", "not-need-init,startup-clear"]);
        }
        let log = self.holder.outside(format!("{WORK_DIR}/{}-swtpm.log", self.name));
        let socket = self.holder.outside(socket);
        let _ = fs::remove_file(&socket);
        self.running = Some(ChildHandle::spawn(&format!("{} swtpm", self.name), &mut command, log)?);
        wait_until(&format!("socket of {}'s TPM", self.name), START, || socket.exists())?;
        if attachment == TpmAttachment::Process {
            // The process is not root.
            for socket in [socket, self.holder.outside(self.control_socket())] {
                fs::set_permissions(&socket, Permissions::from_mode(0o666))
                    .map_err(LabError::io("open a TPM for all"))?;
            }
        }
        Ok(())
    }

    /// Whether the TPM has power.
    pub fn is_running(&mut self) -> bool {
        self.running.as_mut().is_some_and(ChildHandle::is_running)
    }

    /// Powers the TPM off as a power cut does: what it had in memory is lost.
    pub fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.stop();
        }
    }

    /// The TCTI configuration for tpm2-tss, for a process inside of the lab.
    #[must_use]
    pub fn tcti(&self) -> String {
        format!("swtpm:path={}", self.path("socket").display())
    }

    /// The control socket for QEMU, as a path inside of the lab.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.path("socket.ctrl")
    }

    fn path(&self, part: &str) -> PathBuf {
        PathBuf::from(format!("{WORK_DIR}/{}-tpm-{part}", self.name))
    }
}
