//! A manager that runs for one test.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use m2m_identity::tls::TrustAnchors;
use serde_json::Value;

const START_LIMIT: Duration = Duration::from_secs(60);
const PROGRAM: &str = env!("CARGO_BIN_EXE_m2m-manager");

/// A running `m2m-manager` with a state directory of its own; killed when dropped.
pub(crate) struct Manager {
    pub(crate) address: SocketAddr,
    pub(crate) directory: tempfile::TempDir,
    child: Child,
}

impl Manager {
    pub(crate) fn start() -> Self {
        Self::start_with("limits = { enrolments_per_minute = 6000 }")
    }

    /// Starts one with `extra` lines in its configuration.
    pub(crate) fn start_with(extra: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = format!(
            "version = 1\nlisten = [\"127.0.0.1:0\"]\nstate_dir = {:?}\nnames = [\"manager.example\", \"127.0.0.1\"]\n\
             pending_retry = \"7s\"\n{extra}\n\n[[device_defaults.gateway]]\norigin = \"https://gateway.example\"\n",
            directory.path().join("state")
        );
        std::fs::write(directory.path().join("manager.toml"), config).unwrap();
        let (child, address) = serve(directory.path());
        Self { address, directory, child }
    }

    /// Stops it by `signal` and starts it again with the same state.
    pub(crate) fn restart(&mut self, signal: &str) {
        self.stop(signal);
        (self.child, self.address) = serve(self.directory.path());
    }

    /// Sends `signal`, waits for the end and says whether it was a good one.
    pub(crate) fn stop(&mut self, signal: &str) -> bool {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
        self.child.wait().unwrap().success()
    }

    /// A file of the state directory.
    pub(crate) fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    pub(crate) fn anchors(&self) -> TrustAnchors {
        TrustAnchors::parse(&std::fs::read(self.state("root.pem")).unwrap()).unwrap()
    }

    /// Runs a command.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        run(self.directory.path(), arguments)
    }

    /// Runs a command that has to succeed, and gives back what it prints.
    pub(crate) fn tell(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// As [`Self::tell`], as JSON.
    pub(crate) fn ask(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.tell(&[&["--json"], arguments].concat())).unwrap()
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM).arg("--config").arg(directory.join("manager.toml")).args(arguments).output().unwrap()
}

/// Starts the server, and waits until it says where it listens.
fn serve(directory: &Path) -> (Child, SocketAddr) {
    let mut child = Command::new(PROGRAM)
        .arg("--config")
        .arg(directory.join("manager.toml"))
        .env_remove("JOURNAL_STREAM")
        .env_remove("RUST_LOG")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines {
            eprintln!("manager: {line}");
            if let Some((_, address)) = line.split_once("listening on ") {
                let _ = sender.send(address.parse::<SocketAddr>().unwrap());
            }
        }
    });
    match receiver.recv_timeout(START_LIMIT) {
        Ok(address) => (child, address),
        Err(error) => {
            let _ = child.kill();
            panic!("the manager did not start: {error}, {:?}", child.wait());
        }
    }
}
