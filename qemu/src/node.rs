use std::{fs, fs::File, path::PathBuf, process::Command, sync::Arc, thread, time::Duration};

use nix::sched::{CloneFlags, setns};

use crate::{
    ChildHandle, LabError, Output, Result,
    holder::{Holder, WORK_DIR},
    process,
};

/// A host of the lab: a network namespace with a name.
#[derive(Debug, Clone)]
pub struct Node {
    holder: Arc<Holder>,
    name: String,
}

impl Node {
    /// Makes the namespace and brings its loopback up.
    pub(crate) fn create(holder: &Arc<Holder>, name: &str) -> Result<Self> {
        process::check(holder.command(None, "ip").args(["netns", "add", name]))?;
        let node = Self { holder: Arc::clone(holder), name: name.to_owned() };
        node.ip("link set lo up")?;
        Ok(node)
    }

    /// Name of the namespace.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run in this namespace as root; paths in its arguments must be absolute.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.holder.command(Some(&self.name), program)
    }

    /// Runs a program to its end, at most 60 s.
    ///
    /// # Errors
    /// When it cannot be started or does not end; its exit code is the caller's to judge.
    pub fn exec(&self, words: &[&str]) -> Result<Output> {
        let [program, arguments @ ..] = words else {
            return Err(LabError::answer("exec", "no program given"));
        };
        process::run(self.command(program).args(arguments))
    }

    /// Runs one `ip` command, for example `link set eth0 down`.
    ///
    /// # Errors
    /// When `ip` refuses it.
    pub fn ip(&self, arguments: &str) -> Result<String> {
        let mut words = vec!["ip"];
        words.extend(arguments.split_whitespace());
        self.exec(&words)?.ok()
    }

    /// Starts a program that keeps running; `name` names its log.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, name: &str, command: &mut Command) -> Result<ChildHandle> {
        ChildHandle::spawn(name, command, self.holder.outside(format!("{WORK_DIR}/{name}.log")))
    }

    /// Runs `work` on a thread of this process that is in this network namespace, and returns its result.
    ///
    /// Sockets opened by `work` stay in the namespace wherever they are used later. Only the network namespace is
    /// entered: files are those of this process.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = self.holder.outside(format!("/run/netns/{}", self.name));
        let namespace = File::open(&path).map_err(LabError::io(format!("open {}", path.display())))?;
        thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| LabError::io("enter a network namespace")(errno.into()))?;
                Ok(work())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Sets a kernel parameter of this namespace, for example `net/ipv4/ip_forward`.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{name}");
        self.within(|| fs::write(&path, value))?.map_err(LabError::io(format!("set {path} in {}", self.name)))
    }

    /// Loads nftables rules.
    ///
    /// # Errors
    /// When `nft` refuses them.
    pub fn nft(&self, rules: &str) -> Result<()> {
        let file = self.write_file(&format!("{}.nft", self.name), rules)?;
        self.exec(&["nft", "-f", &file.to_string_lossy()])?.ok().map(drop)
    }

    /// Brings a network interface up or down.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn set_link(&self, interface: &str, up: bool) -> Result<()> {
        self.ip(&format!("link set {interface} {}", if up { "up" } else { "down" })).map(drop)
    }

    /// Writes a file into the lab's work directory and returns its path as seen from inside.
    pub(crate) fn write_file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let inside = PathBuf::from(WORK_DIR).join(name);
        let outside = self.holder.outside(&inside);
        if let Some(parent) = outside.parent() {
            fs::create_dir_all(parent).map_err(LabError::io(format!("make {}", parent.display())))?;
        }
        fs::write(&outside, text).map_err(LabError::io(format!("write {}", outside.display())))?;
        Ok(inside)
    }

    /// Waits at most 10 s until a TCP connection from this node to `address` is accepted.
    ///
    /// # Errors
    /// [`LabError::Timeout`].
    pub fn wait_for_tcp(&self, address: impl Into<std::net::SocketAddr>) -> Result<()> {
        let address = address.into();
        let limit = Duration::from_secs(10);
        crate::wait::wait_for(&format!("{address} to accept connections"), limit, || {
            let connected = self.within(|| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(1)))?;
            Ok(connected.ok().map(drop))
        })
    }
}
