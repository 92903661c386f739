//! Capture of the device link, and its audit against the list of what may leave a device.

mod dns;
mod pcap;
mod policy;

use std::{
    net::{Ipv4Addr, UdpSocket},
    path::Path,
    process::Command,
    time::Duration,
};

pub use pcap::{Frame, append, read};
pub use policy::{Policy, Violation};

use crate::{ChildHandle, LabError, Node, Result, holder::WORK_DIR, topology::DEVICE_LINK, wait::wait_for};

const START: Duration = Duration::from_secs(10);
const SETTLE: Duration = Duration::from_secs(10);

/// A running `tcpdump` on the router's end of the device link.
///
/// The router sees what devices send before any of its own rules, and what it sends itself after them.
#[derive(Debug)]
pub struct Capture {
    internet: Node,
    tcpdump: ChildHandle,
    file: std::path::PathBuf,
    settled: u8,
}

impl Capture {
    /// Starts before any device does.
    pub(crate) fn start(internet: &Node, outside: impl Fn(&str) -> std::path::PathBuf) -> Result<Self> {
        let inside = format!("{WORK_DIR}/uplink.pcap");
        let mut command: Command = internet.command("tcpdump");
        command.args(["-i", DEVICE_LINK, "-n", "-U", "--immediate-mode", "-s", "262144", "-B", "32768"]);
        command.args(["-Z", "root", "-w", &inside]);
        let mut tcpdump = internet.spawn("tcpdump", &mut command)?;
        tcpdump.wait_for_log("listening on", START)?;
        Ok(Self { internet: internet.clone(), tcpdump, file: outside(&inside), settled: 0 })
    }

    /// The capture file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// Every packet on the device link so far.
    ///
    /// # Errors
    /// When the capture stopped, lost packets or cannot be read: then it would prove nothing.
    pub fn frames(&mut self) -> Result<Vec<Frame>> {
        self.settle()?;
        read(&self.file)
    }

    /// Every packet so far that is outside of `policy`.
    ///
    /// # Errors
    /// As [`Capture::frames`].
    pub fn audit(&mut self, policy: &Policy) -> Result<Vec<Violation>> {
        Ok(policy.audit(&self.frames()?))
    }

    /// Ends the capture and checks that the kernel dropped nothing of it.
    ///
    /// # Errors
    /// When packets were lost.
    pub fn finish(mut self) -> Result<std::path::PathBuf> {
        self.settle()?;
        self.tcpdump.stop();
        let log = self.tcpdump.log();
        let dropped = log.lines().find_map(|line| line.strip_suffix(" packets dropped by kernel"));
        match dropped.map(str::trim) {
            Some("0") => Ok(self.file.clone()),
            Some(count) => Err(LabError::answer("tcpdump", format!("{count} packets are missing in the capture"))),
            None => Err(LabError::answer("tcpdump", "ended without its figures")),
        }
    }

    /// Waits until the file holds everything that was sent before this call.
    ///
    /// The router asks for a neighbour that nobody is; packets are captured in order, so when the question is in the
    /// file, everything earlier is.
    fn settle(&mut self) -> Result<()> {
        if !self.tcpdump.is_running() {
            return Err(LabError::answer("tcpdump", format!("ended:\n{}", self.tcpdump.log())));
        }
        self.settled = self.settled % 50 + 1;
        let nobody = Ipv4Addr::new(192, 0, 2, 200 + self.settled);
        let questions = |frames: &[Frame]| frames.iter().filter(|frame| policy::asks_for(frame, nobody)).count();
        let before = questions(&read(&self.file)?);
        let sent = self.internet.within(|| {
            UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.send_to(b"settle", (nobody, 9)))
        })?;
        sent.map_err(LabError::io("send on the device link"))?;
        wait_for("the capture to settle", SETTLE, || Ok((questions(&read(&self.file)?) > before).then_some(())))
    }
}
