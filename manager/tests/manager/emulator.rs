//! A TPM emulator (swtpm), for one test.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use m2m_identity::tpm::Tpm;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running swtpm with a certified endorsement key; killed when dropped.
pub(crate) struct Emulator {
    child: Child,
    directory: tempfile::TempDir,
}

impl Emulator {
    /// Manufactures a TPM whose endorsement key is certified by a CA made for it, and switches it on.
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        manufacture(directory.path());
        let child = switch_on(directory.path());
        Self { child, directory }
    }

    /// Opens the TPM.
    pub(crate) fn open(&self) -> Tpm {
        Tpm::open(&format!("swtpm:path={}", socket(self.directory.path()).display())).unwrap()
    }

    /// The certificate of the CA that signed the endorsement key's, PEM.
    pub(crate) fn issuer(&self) -> PathBuf {
        self.directory.path().join("ca/issuercert.pem")
    }

    /// The certificate of that CA's root, PEM.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.path().join("ca/swtpm-localca-rootca-cert.pem")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn manufacture(directory: &Path) {
    let ca = directory.join("ca");
    fs::create_dir(&ca).unwrap();
    fs::create_dir(directory.join("state")).unwrap();
    let at = |name: &str| ca.join(name).display().to_string();
    let write = |name: &str, text: String| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let options = write("options", "--platform-manufacturer X\n--platform-version 1\n--platform-model X\n".to_owned());
    let localca = write(
        "localca.conf",
        format!(
            "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
            ca.display(),
            at("signkey.pem"),
            at("issuercert.pem"),
            at("certserial")
        ),
    );
    let setup = write(
        "setup.conf",
        format!(
            "create_certs_tool = /usr/bin/swtpm_localca\ncreate_certs_tool_config = {localca}\n\
             create_certs_tool_options = {options}\n"
        ),
    );
    let output = Command::new("timeout")
        .args(["60", "swtpm_setup", "--tpm2", "--create-ek-cert", "--pcr-banks", "sha256", "--config", &setup])
        .arg("--tpm-state")
        .arg(directory.join("state"))
        .output()
        .expect("swtpm_setup (package swtpm-tools) is needed by this test");
    assert!(output.status.success(), "swtpm_setup: {output:?}");
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("tpm.sock")
}

fn switch_on(directory: &Path) -> Child {
    let data = socket(directory);
    let control = PathBuf::from(format!("{}.ctrl", data.display()));
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--server")
        .arg(format!("type=unixio,path={}", data.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()))
        .arg("--tpmstate")
        .arg(format!("dir={}", directory.join("state").display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is needed by this test");
    let deadline = Instant::now() + START_LIMIT;
    while !(listens(&data) && listens(&control)) {
        let state = child.try_wait().unwrap();
        assert!(state.is_none() && Instant::now() < deadline, "swtpm did not start: {state:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Whether somebody listens at `socket`, without connecting: swtpm would take that for its client.
fn listens(socket: &Path) -> bool {
    // __SO_ACCEPTCON, in the column of flags.
    const LISTENING: &str = " 00010000 ";
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    let path = socket.display().to_string();
    sockets.lines().any(|line| line.contains(LISTENING) && line.ends_with(&path))
}
