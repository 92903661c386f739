//! A TPM emulator (swtpm) for one test.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use m2m_identity::tpm::Tpm;
use tempfile::TempDir;

const START_LIMIT: Duration = Duration::from_secs(20);

/// A running swtpm, made for this test; killed when dropped.
pub(crate) struct Emulator {
    child: Child,
    directory: TempDir,
}

impl Emulator {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = format!("dir={}", directory.path().display());
        let server = format!("type=unixio,path={}", directory.path().join("tpm.sock").display());
        let control = format!("type=unixio,path={}", directory.path().join("tpm.sock.ctrl").display());
        let mut child = Command::new("swtpm")
            .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear", "--server", &server])
            .args(["--ctrl", &control, "--tpmstate", &state])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("swtpm is needed by this test");
        let deadline = Instant::now() + START_LIMIT;
        while !listens(&directory.path().join("tpm.sock.ctrl")) {
            assert!(child.try_wait().unwrap().is_none() && Instant::now() < deadline, "swtpm did not start");
            sleep(Duration::from_millis(5));
        }
        Self { child, directory }
    }

    pub(crate) fn open(&self) -> Tpm {
        Tpm::open(&format!("swtpm:path={}", self.directory.path().join("tpm.sock").display())).unwrap()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether somebody listens at `socket`, without connecting: swtpm would take that for its client.
fn listens(socket: &Path) -> bool {
    let path = socket.to_str().unwrap();
    let sockets = fs::read_to_string("/proc/net/unix").unwrap();
    sockets.lines().any(|line| line.ends_with(path) && line.split_whitespace().nth(3) == Some("00010000"))
}
