use std::{
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use crate::{LabError, Result, process, wait::wait_for};

/// Where the lab keeps its files, as seen from inside.
pub(crate) const WORK_DIR: &str = "/run/lab";

const START: Duration = Duration::from_secs(10);

/// The process whose private PID, mount, network, UTS and IPC namespaces contain the whole lab.
///
/// It is `cat` behind `unshare`, as PID 1 of its namespace, reading from a pipe whose other end only this process has.
/// However this process ends, the pipe closes, `cat` ends, and the kernel kills everything else in the PID namespace;
/// with the last process go the namespaces, and with them the tmpfs that holds every file of the lab.
#[derive(Debug)]
pub struct Holder {
    unshare: Child,
    pipe: Option<ChildStdin>,
    init_pid: u32,
}

impl Holder {
    /// Makes the namespaces and the private `/run`.
    ///
    /// # Errors
    /// When `unshare` is missing or not permitted (the lab needs root).
    pub fn start() -> Result<Self> {
        let mut unshare = Command::new("unshare")
            .args(["--fork", "--kill-child=SIGKILL", "--pid", "--mount-proc", "--mount", "--propagation", "private"])
            .args(["--net", "--uts", "--ipc", "--", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| LabError::Tool { tool: "unshare".to_owned(), source })?;
        let pipe = unshare.stdin.take();
        let echo = unshare.stdout.take();
        let mut holder = Holder { unshare, pipe, init_pid: 0 };
        holder.await_echo(echo)?;
        holder.init_pid = wait_for("the lab's init process", START, || Ok(process::child_of(holder.unshare.id())))?;
        holder.private_run()?;
        Ok(holder)
    }

    /// A command that will run inside, in the network namespace `netns` (or in the holder's own empty one).
    ///
    /// Its working directory is `/`: paths must be absolute.
    #[must_use]
    pub fn command(&self, netns: Option<&str>, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.init_pid.to_string());
        command.args(["--pid", "--mount", "--net", "--uts", "--ipc", "--"]);
        if let Some(netns) = netns {
            command.args(["ip", "netns", "exec", netns]);
        }
        command.arg(program).env("TMPDIR", WORK_DIR).stdin(Stdio::null());
        command
    }

    /// The path by which this process reaches what is `inside` (an absolute path) in the lab.
    #[must_use]
    pub fn outside(&self, inside: impl AsRef<Path>) -> PathBuf {
        let inside = inside.as_ref();
        let relative = inside.strip_prefix("/").unwrap_or(inside);
        PathBuf::from(format!("/proc/{}/root", self.init_pid)).join(relative)
    }

    /// Process id of the lab's init process, as seen from outside.
    #[must_use]
    pub fn init_pid(&self) -> u32 {
        self.init_pid
    }

    /// `cat` gives back a line once it runs, and it runs only after every namespace is made.
    fn await_echo(&mut self, echo: Option<impl Read>) -> Result<()> {
        const HELLO: &[u8] = b"lab\n";
        let (Some(pipe), Some(mut echo)) = (self.pipe.as_mut(), echo) else {
            return Err(LabError::answer("unshare", "has no pipes"));
        };
        let mut answer = [0; HELLO.len()];
        if pipe.write_all(HELLO).is_ok() && echo.read_exact(&mut answer).is_ok() && answer == HELLO {
            return Ok(());
        }
        let mut problem = String::new();
        if let Some(mut stderr) = self.unshare.stderr.take() {
            let _ = stderr.read_to_string(&mut problem);
        }
        Err(LabError::answer("unshare (the lab needs root)", problem.trim()))
    }

    fn private_run(&self) -> Result<()> {
        process::check(self.command(None, "mount").args(["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"]))?;
        for dir in ["/run/netns", "/run/lock", WORK_DIR] {
            fs::create_dir_all(self.outside(dir)).map_err(LabError::io(format!("make {dir}")))?;
        }
        process::check(self.command(None, "ip").args(["link", "set", "lo", "up"]))
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.pipe.take());
        let _ = self.unshare.wait();
    }
}
