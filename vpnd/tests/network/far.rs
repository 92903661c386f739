//! The far end of the device's uplink: another network namespace with servers in it.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use nix::sched::{CloneFlags, setns};

use crate::place::{run, try_run, until};

/// The namespace at the other end of the interface `uplink`. The device is 192.0.2.7 and 2001:db8:1::7, the far end .1 and ::1, and it
/// has 198.51.100.10, 2001:db8:2::10, 203.0.113.10 and 2001:db8:3::10 besides.
pub(crate) struct Far {
    holder: Child,
}

impl Far {
    /// Makes it and joins both by a cable.
    pub(crate) async fn connect() -> Self {
        // The process keeps the namespace; whatever ends the test, it ends by itself.
        let holder = Command::new("unshare").args(["--net", "sleep", "90"]).spawn().unwrap();
        let far = Self { holder };
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = far.namespace();
        until("a namespace for the far end", || std::fs::read_link(&path).is_ok_and(|theirs| theirs != own)).await;
        run(&format!("ip link add name uplink type veth peer name device netns {}", far.holder.id()));
        run("ip link set uplink up");
        run("ip address add 192.0.2.7/24 dev uplink");
        run("ip address add 2001:db8:1::7/64 dev uplink nodad");
        for command in [
            "ip link set lo up",
            "ip link set device up",
            "ip address add 192.0.2.1/24 dev device",
            "ip address add 2001:db8:1::1/64 dev device nodad",
            "ip address add 198.51.100.10/32 dev lo",
            "ip address add 203.0.113.10/32 dev lo",
            "ip address add 2001:db8:2::10/128 dev lo nodad",
            "ip address add 2001:db8:3::10/128 dev lo nodad",
        ] {
            far.run(command);
        }
        run("ip route add default via 192.0.2.1");
        run("ip -6 route add default via 2001:db8:1::1");
        far
    }

    /// Runs a command there.
    pub(crate) fn run(&self, command: &str) -> String {
        run(&self.command(command))
    }

    /// Runs `work` on a thread there, with a runtime of its own, which ends with the test's process at the latest.
    pub(crate) fn spawn<Work: Future<Output = ()>>(&self, work: impl FnOnce() -> Work + Send + 'static) {
        let namespace = File::open(self.namespace()).unwrap();
        std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work());
        });
    }

    /// Starts dnsmasq there, which answers on 192.0.2.1 and 2001:db8:1::1 for the names given as `--host-record=` arguments.
    pub(crate) async fn dnsmasq(&self, arguments: &[&str]) -> Dnsmasq {
        let common = "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --log-queries=extra \
                      --log-facility=- --pid-file= --bind-interfaces --local=/example/ --user=root --group=root";
        let command = self.command(common);
        let mut words = command.split_ascii_whitespace();
        let mut process =
            Command::new(words.next().unwrap()).args(words).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        let log: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let dnsmasq = Dnsmasq { process, log };
        let listening = self.command("ss -Hltn sport = 53");
        until("dnsmasq listens", || try_run(&listening).0.contains(":53")).await;
        dnsmasq
    }

    fn command(&self, command: &str) -> String {
        format!("nsenter --net={} {command}", self.namespace().display())
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.holder.id()).into()
    }
}

impl Drop for Far {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A DNS server that tells what it was asked.
pub(crate) struct Dnsmasq {
    process: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Dnsmasq {
    /// The questions so far, as `TYPE NAME`.
    pub(crate) fn questions(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let question = |line: &String| {
            let (_, rest) = line.split_once(" query[")?;
            let (kind, rest) = rest.split_once("] ")?;
            Some(format!("{kind} {}", rest.split(' ').next()?))
        };
        log.iter().filter_map(question).collect()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
