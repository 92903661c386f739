//! A root shell in a machine, on its second serial port.
//!
//! The image has no code for it. The machine's firmware tables (SMBIOS type 11) carry two systemd credentials, from
//! which systemd makes a unit at boot (`systemd-debug-generator`, systemd 256 and later): one that serves the port, and
//! one that lets `multi-user.target` want it. A machine in the field has a firmware of its own, without them.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};

use crate::{LabError, Output, Result};

const UNIT: &str = "m2mvpn-lab.service";
const PORT: &str = "/dev/ttyS1";
const ANSWER: &str = "m2mvpn-lab-shell";

/// The values for `-smbios type=11` that make a machine serve the shell.
pub(super) fn credentials() -> [String; 2] {
    let script = format!(
        "exec <>{PORT} >&0
stty -F {PORT} raw -echo
printf '\n%s ready.\n' {ANSWER}
while true; do
    IFS=' ' read -r number command || {{ sleep 0.2; continue; }}
    base64 -d <<<\"$command\" >/run/m2mvpn-lab.command
    output=$(timeout 300 bash /run/m2mvpn-lab.command 2>&1 </dev/null | base64 -w 0; exit ${{PIPESTATUS[0]}})
    status=$?
    printf '%s %s %s %s.\\n' {ANSWER} \"$number\" $status \"$output\"
done
"
    );
    let unit = format!(
        "[Unit]
Description=Shell of the lab on {PORT}
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
[Service]
ExecStart=/bin/bash -c \"source <(base64 -d <<<{})\"
StandardError=journal
Restart=always
",
        BASE64.encode(script)
    );
    let wanted = format!("[Unit]\nWants={UNIT}\n");
    [
        credential(&format!("systemd.extra-unit.{UNIT}"), &unit),
        credential("systemd.unit-dropin.multi-user.target~m2mvpn-lab", &wanted),
    ]
}

fn credential(name: &str, value: &str) -> String {
    format!("io.systemd.credential.binary:{name}={}", BASE64.encode(value))
}

/// The host's end of the serial port.
#[derive(Debug)]
pub(super) struct Shell {
    stream: UnixStream,
    received: Vec<u8>,
    number: u32,
    ready: bool,
}

impl Shell {
    /// Connects to QEMU's end of the port; None as long as QEMU has not made it.
    pub(super) fn connect(socket: &Path) -> Result<Option<Self>> {
        let Ok(stream) = UnixStream::connect(socket) else {
            return Ok(None);
        };
        stream.set_read_timeout(Some(Duration::from_millis(200))).map_err(LabError::io("set a timeout"))?;
        Ok(Some(Self { stream, received: Vec::new(), number: 0, ready: false }))
    }

    /// Runs a bash script in the machine; its two outputs come as one.
    pub(super) fn run(&mut self, script: &str, limit: Duration) -> Result<Output> {
        let deadline = Instant::now() + limit;
        while !self.ready {
            // What is sent before the port is open gets lost.
            self.ready = self.line(deadline, script, limit)?.contains(&format!("{ANSWER} ready."));
        }
        self.number += 1;
        let line = format!("{} {}\n", self.number, BASE64.encode(script));
        self.stream.write_all(line.as_bytes()).map_err(LabError::io("write to the machine's shell"))?;
        loop {
            let line = self.line(deadline, script, limit)?;
            if let Some(output) = answer(&line, self.number, script) {
                return Ok(output);
            }
        }
    }

    /// The next line that the machine writes to the port.
    fn line(&mut self, deadline: Instant, script: &str, limit: Duration) -> Result<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.received.drain(..=end).collect();
                return Ok(String::from_utf8_lossy(&line).into_owned());
            }
            if Instant::now() >= deadline {
                let what = format!("the machine's answer to `{script}`");
                return Err(LabError::Timeout { what, limit });
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> Result<()> {
        let mut buffer = [0; 4096];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(LabError::answer("the machine's shell", "the machine is off")),
            Ok(length) => {
                self.received.extend_from_slice(&buffer[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                Ok(())
            }
            Err(error) => Err(LabError::io("read from the machine's shell")(error)),
        }
    }
}

/// Reads one line of the port; None when it is not the answer to command `number`.
fn answer(line: &str, number: u32, script: &str) -> Option<Output> {
    let start = line.find(ANSWER)?;
    let mut words = line[start..].trim_end().strip_suffix('.')?.splitn(4, ' ').skip(1);
    if words.next()? != number.to_string() {
        return None;
    }
    let status = words.next()?.parse().ok()?;
    let output = BASE64.decode(words.next()?).ok()?;
    Some(Output {
        command: script.to_owned(),
        status,
        stdout: String::from_utf8_lossy(&output).into_owned(),
        stderr: String::new(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn an_answer_is_recognized_among_other_output() {
        let output = answer("[  3.1] kernelm2mvpn-lab-shell 7 3 aGVsbG8=.\r\n", 7, "x").unwrap();
        assert_eq!((output.status, output.stdout.as_str()), (3, "hello"));
        assert!(answer("m2mvpn-lab-shell 6 0 aGVsbG8=.\n", 7, "x").is_none());
        assert!(answer("m2mvpn-lab-shell 7 0 aGVsb\n", 7, "x").is_none());
        assert_eq!(answer("m2mvpn-lab-shell 7 0 .\n", 7, "x").unwrap().stdout, "");
    }

    #[test]
    fn the_port_is_served_by_what_the_firmware_carries() {
        let [unit, wanted] = credentials();
        let value = |credential: &str, name: &str| {
            let value = credential.strip_prefix(&format!("io.systemd.credential.binary:{name}=")).unwrap().to_owned();
            String::from_utf8(BASE64.decode(value).unwrap()).unwrap()
        };
        let unit = value(&unit, "systemd.extra-unit.m2mvpn-lab.service");
        assert!(unit.contains("ExecStart=/bin/bash -c") && !unit.contains(['%', '$']), "{unit}");
        let wanted = value(&wanted, "systemd.unit-dropin.multi-user.target~m2mvpn-lab");
        assert_eq!(wanted, "[Unit]\nWants=m2mvpn-lab.service\n");
    }
}
