use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    LabError, Result,
    wait::{wait_for, wait_until},
};

const COMMAND_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const LOG_TAIL_LINES: usize = 25;

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub command: String,
    /// Exit code; 128 + n when signal n ended it.
    pub status: i32,
    /// What it wrote to standard output.
    pub stdout: String,
    /// What it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// Whether the exit code is 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output of a command that must have succeeded.
    ///
    /// # Errors
    /// [`LabError::Command`] when the exit code is not 0.
    pub fn ok(self) -> Result<String> {
        if self.success() {
            return Ok(self.stdout);
        }
        Err(LabError::Command {
            command: self.command,
            status: format!("exit code {}", self.status),
            stderr: tail(&format!("{}{}", self.stdout, self.stderr)),
        })
    }
}

/// A process of the lab: it is killed when this handle is dropped.
#[derive(Debug)]
pub struct ChildHandle {
    name: String,
    nsenter: Child,
    pid: Pid,
    log: PathBuf,
    /// Length of the log file when this process started.
    log_start: usize,
}

impl ChildHandle {
    /// Starts `command` (made by [`crate::Holder::command`]) with its output going to `log`.
    pub(crate) fn spawn(name: &str, command: &mut Command, log: PathBuf) -> Result<Self> {
        let out = File::options().create(true).append(true).open(&log);
        let out = out.map_err(LabError::io(format!("open {}", log.display())))?;
        let err = out.try_clone().map_err(LabError::io("duplicate a log file"))?;
        let log_start = fs::read(&log).map_or(0, |bytes| bytes.len());
        let nsenter = command.stdout(out).stderr(err).spawn();
        let mut nsenter = nsenter.map_err(|source| LabError::Tool { tool: "nsenter".to_owned(), source })?;
        let pid = wait_for(&format!("start of {name}"), STOP_LIMIT, || {
            if let Some(pid) = child_of(nsenter.id()) {
                return Ok(Some(pid));
            }
            match nsenter.try_wait() {
                Ok(Some(status)) => Err(ended(name, status, &log)),
                _ => Ok(None),
            }
        })?;
        Ok(Self { name: name.to_owned(), nsenter, pid: Pid::from_raw(pid.cast_signed()), log, log_start })
    }

    /// Name of the process in this lab, also the stem of its log file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Process id as seen from outside of the lab.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// The file that gets standard output and standard error.
    #[must_use]
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// Everything that the process has printed so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.log_start..).unwrap_or_default()).into_owned()
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.nsenter.try_wait(), Ok(None))
    }

    /// Checks that the process still runs.
    ///
    /// # Errors
    /// [`LabError::Ended`] with the end of its log when it does not.
    pub fn must_run(&mut self) -> Result<()> {
        match self.nsenter.try_wait().map_err(LabError::io("wait for a process"))? {
            Some(status) => Err(ended(&self.name, status, &self.log)),
            None => Ok(()),
        }
    }

    /// Waits until a line of the log contains `text` and returns that line.
    ///
    /// # Errors
    /// [`LabError::Ended`] when the process ends without it, [`LabError::Timeout`] when `limit` passes.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("\"{text}\" in the log of {}", self.name);
        wait_for(&what, limit, || {
            let running = self.must_run();
            if let Some(line) = self.log().lines().find(|line| line.contains(text)) {
                return Ok(Some(line.to_owned()));
            }
            running.map(|()| None)
        })
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// [`LabError::Timeout`] when it still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        wait_for(&format!("end of {}", self.name), limit, || {
            self.nsenter.try_wait().map_err(LabError::io("wait for a process"))
        })
    }

    /// Asks the process to end (SIGTERM) and kills it when it does not within 5 s.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGTERM);
        if wait_until("end", STOP_LIMIT, || !self.is_running()).is_err() {
            self.kill();
        }
    }

    /// Ends the process as a crash would (SIGKILL) and waits until it is gone.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = wait_until("end", STOP_LIMIT, || !self.is_running());
    }

    /// Sends `signal` unless the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            let _ = kill(self.pid, signal);
        }
    }

    /// Resident memory in bytes (VmRSS).
    #[must_use]
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        resident_bytes(&status)
    }
}

impl Drop for ChildHandle {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Reads VmRSS from the text of a `/proc/PID/status`, in bytes.
#[must_use]
pub fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// Runs a command to its end, bounded by 60 s.
pub(crate) fn run(command: &mut Command) -> Result<Output> {
    run_within(command, COMMAND_LIMIT)
}

/// Runs a command that must succeed.
pub(crate) fn check(command: &mut Command) -> Result<()> {
    run(command)?.ok().map(drop)
}

/// Runs a command to its end; it is killed when `limit` passes.
pub(crate) fn run_within(command: &mut Command, limit: Duration) -> Result<Output> {
    let name = describe(command);
    let temporary = || tempfile::tempfile().map_err(LabError::io("make a temporary file"));
    let (mut stdout, mut stderr) = (temporary()?, temporary()?);
    let shared = |file: &File| file.try_clone().map(Stdio::from).map_err(LabError::io("duplicate a file"));
    let child = command.stdout(shared(&stdout)?).stderr(shared(&stderr)?).spawn();
    let mut child = child.map_err(|source| LabError::Tool { tool: name.clone(), source })?;
    let status = wait_for(&name, limit, || child.try_wait().map_err(LabError::io("wait for a command")));
    let status = match status {
        Ok(status) => status,
        Err(error) => {
            if let Some(pid) = child_of(child.id()) {
                let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL);
            }
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    Ok(Output {
        command: name,
        status: exit_code(status),
        stdout: read_all(&mut stdout)?,
        stderr: read_all(&mut stderr)?,
    })
}

/// The first child of a process: `nsenter` and `unshare` have just one.
pub(crate) fn child_of(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn read_all(file: &mut File) -> Result<String> {
    use io::{Read, Seek};
    let mut bytes = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut bytes)).map_err(LabError::io("read a command's output"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}

/// The command line without the wrapper that brings it into the lab.
fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let start = words.iter().position(|word| word == "--").map_or(0, |position| position + 1);
    words[start..].join(" ")
}

fn ended(name: &str, status: ExitStatus, log: &Path) -> LabError {
    let log = fs::read(log).unwrap_or_default();
    LabError::Ended { name: name.to_owned(), status: status.to_string(), log: tail(&String::from_utf8_lossy(&log)) }
}

/// The last lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_command_has_its_output_and_its_code() {
        let output = run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"])).unwrap();
        assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (3, "out\n", "err\n"));
        assert!(output.ok().unwrap_err().to_string().contains("exit code 3"));
    }

    #[test]
    fn a_command_that_hangs_is_ended() {
        let error = run_within(Command::new("sleep").arg("60"), Duration::from_millis(100)).unwrap_err();
        assert!(matches!(error, LabError::Timeout { .. }), "{error}");
    }

    #[test]
    fn resident_memory_is_read_from_status() {
        assert_eq!(resident_bytes("Name:\tvpnd\nVmRSS:\t    5120 kB\n"), Some(5120 * 1024));
        assert_eq!(resident_bytes("Name:\tkthread\n"), None);
    }
}
