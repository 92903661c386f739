//! A TPM emulator (swtpm) with an endorsement key certificate from a local CA, for one test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use m2m_identity::{chain, tpm::Tpm};
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running swtpm; killed when dropped.
pub(crate) struct Emulator {
    child: Child,
    directory: TempDir,
}

impl Emulator {
    /// Manufactures a TPM with a certified RSA 2048 endorsement key, and switches it on.
    pub(crate) fn start() -> Self {
        Self::manufactured(&["--create-ek-cert"])
    }

    /// Manufactures a TPM without a certificate, and switches it on.
    pub(crate) fn start_uncertified() -> Self {
        Self::manufactured(&[])
    }

    fn manufactured(options: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        manufacture(directory.path(), options);
        let child = switch_on(directory.path());
        Self { child, directory }
    }

    /// The TCTI of the emulator.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:path={}", socket(self.directory.path()).display())
    }

    /// Opens the TPM.
    pub(crate) fn open(&self) -> Tpm {
        Tpm::open(&self.tcti()).expect("the emulator is on")
    }

    /// Runs a program of tpm2-tools on the TPM, which nobody else may hold.
    pub(crate) fn tool(&self, program: &str, arguments: &[&str]) {
        let output = Command::new("timeout")
            .args(["30", program])
            .args(arguments)
            .env("TPM2TOOLS_TCTI", self.tcti())
            .current_dir(self.directory.path())
            .output()
            .expect("tpm2-tools are needed by this test");
        assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The directory in which [`Emulator::tool`] runs.
    pub(crate) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Sends the emulator a signal, such as `-STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill").success());
    }

    /// Switches the TPM off and on again, as a power cut does.
    pub(crate) fn power_cycle(&mut self) {
        self.kill();
        self.child = switch_on(self.directory.path());
    }

    /// The certificate of the local CA's root.
    pub(crate) fn root(&self) -> CertificateDer<'static> {
        self.certificate("swtpm-localca-rootca-cert.pem")
    }

    /// The certificate of the local CA that signs endorsement keys.
    pub(crate) fn issuer(&self) -> CertificateDer<'static> {
        self.certificate("issuercert.pem")
    }

    fn certificate(&self, name: &str) -> CertificateDer<'static> {
        let pem = fs::read(ca(self.directory.path()).join(name)).expect("certificate of the CA");
        chain::certificates(&pem).expect("a certificate").remove(0)
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.kill();
    }
}

fn ca(directory: &Path) -> PathBuf {
    directory.join("ca")
}

fn state(directory: &Path) -> PathBuf {
    directory.join("state")
}

fn manufacture(directory: &Path, extra: &[&str]) {
    let ca = ca(directory);
    let write = |name: &str, lines: &[String]| {
        let path = directory.join(name);
        fs::write(&path, lines.join("\n") + "\n").expect("configuration of swtpm");
        path
    };
    fs::create_dir(&ca).expect("directory of the CA");
    fs::create_dir(state(directory)).expect("directory of the state");
    let options = write(
        "localca.options",
        &[
            "--platform-manufacturer Example".to_owned(),
            "--platform-version 1".to_owned(),
            "--platform-model Example".to_owned(),
        ],
    );
    let localca = write(
        "localca.conf",
        &[
            format!("statedir = {}", ca.display()),
            format!("signingkey = {}", ca.join("signkey.pem").display()),
            format!("issuercert = {}", ca.join("issuercert.pem").display()),
            format!("certserial = {}", ca.join("certserial").display()),
        ],
    );
    let setup = write(
        "setup.conf",
        &[
            "create_certs_tool = /usr/bin/swtpm_localca".to_owned(),
            format!("create_certs_tool_config = {}", localca.display()),
            format!("create_certs_tool_options = {}", options.display()),
        ],
    );
    let output = Command::new("timeout")
        .args(["60", "swtpm_setup", "--tpm2"])
        .args(extra)
        .args(["--pcr-banks", "sha256", "--tpm-state"])
        .arg(state(directory))
        .arg("--config")
        .arg(setup)
        .output()
        .expect("swtpm_setup (package swtpm-tools) is needed by this test");
    assert!(
        output.status.success(),
        "swtpm_setup: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("tpm.sock")
}

/// Starts swtpm, and waits until it listens.
fn switch_on(directory: &Path) -> Child {
    let data = socket(directory);
    let control = PathBuf::from(format!("{}.ctrl", data.display()));
    for socket in [&data, &control] {
        let _ = fs::remove_file(socket);
    }
    let mut child = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
        .arg("--server")
        .arg(format!("type=unixio,path={}", data.display()))
        .arg("--ctrl")
        .arg(format!("type=unixio,path={}", control.display()))
        .arg("--tpmstate")
        .arg(format!("dir={}", state(directory).display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("swtpm is needed by this test");
    let deadline = Instant::now() + START_LIMIT;
    while !(listens(&data) && listens(&control)) {
        let state = child.try_wait().expect("state of swtpm");
        if state.is_some() || Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("swtpm did not start: {state:?}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// Whether somebody listens at `socket`, without connecting: swtpm would take that for its client.
fn listens(socket: &Path) -> bool {
    const LISTENING: &str = "00010000";
    let path = socket.to_str().expect("a path in UTF-8");
    fs::read_to_string("/proc/net/unix")
        .unwrap_or_default()
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .any(|fields| fields.get(3) == Some(&LISTENING) && fields.last() == Some(&path))
}
