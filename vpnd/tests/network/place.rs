//! A network namespace for one test, and what is looked at in it.

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use serde_json::Value;
use vpnd::network::dns::Backend;
use vpnd::network::firewall::Firewall;
use vpnd::network::uplink_dns::UplinkDns;
use vpnd::network::{Network, Settings};

/// No test may take longer.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// Runs `test` on a thread of its own in a fresh network namespace, which is gone when the thread is.
pub(crate) fn in_namespace<Test>(test: impl FnOnce() -> Test + Send + 'static)
where
    Test: Future<Output = ()>,
{
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; run the tests as root");
        run("ip link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(TIME_LIMIT, test()).await.expect("in time") });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command in the thread's namespace; what it prints.
pub(crate) fn run(command: &str) -> String {
    let (output, ok) = try_run(command);
    assert!(ok, "{command}: {output}");
    output
}

/// Runs a command; what it prints, and whether it succeeded.
pub(crate) fn try_run(command: &str) -> (String, bool) {
    let mut words = command.split_ascii_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
    (text, output.status.success())
}

/// What a command prints as JSON.
pub(crate) fn json(command: &str) -> Vec<Value> {
    match run(command).trim() {
        "" => Vec::new(),
        text => serde_json::from_str(text).unwrap(),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A TUN interface `m2m0`, as the tunnel has it; its index.
pub(crate) fn tunnel_interface() -> u32 {
    run("ip tuntap add dev m2m0 mode tun");
    nix::net::if_::if_nametoindex("m2m0").unwrap()
}

/// Nothing but the kernel.
pub(crate) fn bare() -> Settings {
    Settings { resolvers: UplinkDns::Fixed(Vec::new()), firewall: Firewall::None, dns: Backend::None }
}

/// A network with these settings.
pub(crate) async fn network(settings: Settings) -> Network {
    Network::start(settings).await.unwrap()
}
