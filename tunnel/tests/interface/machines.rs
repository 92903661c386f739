//! Machines in network namespaces.

use std::{
    future::{Future, poll_fn},
    net::Ipv6Addr,
    num::NonZeroU16,
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use m2m_tunnel::{
    capsule::AssignedAddress,
    carrier::{self, Counters, End, LinkId, Notice, Policy, Way},
    client::{ConnectRequest, establish},
    hub::{EndpointConfig, Hub, Service},
    session::Event,
    tun::{Tun, TunConfig},
    udp::UdpSocket,
};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::certified::{AUTHORITY, configurations};

/// No step of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("too slow")
}

const MARK: &str = "M2M_TUNNEL_TEST_ISOLATED";

/// No test takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs `body` of the test `name` in a process with its own user and network namespace, as a user that is not root and
/// has no capability but `capabilities`.
pub(crate) fn isolated<F: Future<Output = ()>>(name: &str, capabilities: &str, body: impl FnOnce() -> F) {
    if std::env::var_os(MARK).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(body());
    }
    let all = format!("-all{capabilities}");
    let mut child = Command::new("unshare")
        .args(["--user", "--map-user=1000", "--map-group=1000", "--keep-caps", "--net", "--kill-child", "--fork"])
        .args(["setpriv", "--bounding-set", &all, "--inh-caps", &all, "--ambient-caps", &all])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(MARK, "1")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{name}: {status}");
            return;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("{name}: too slow");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What a machine can do in the tests: everything with its network, and make namespaces.
pub(crate) const NETWORK: &str = ",+net_admin,+sys_admin";

/// Runs `ip`.
pub(crate) fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Makes an interface with addresses in the calling thread's network namespace.
pub(crate) fn interface(name: &str, mtu: u16, addresses: &[&str]) -> Tun {
    interface_of(name, mtu, 1, addresses)
}

/// Makes an interface with several queues.
pub(crate) fn interface_of(name: &str, mtu: u16, queues: u16, addresses: &[&str]) -> Tun {
    let queues = NonZeroU16::new(queues).unwrap();
    let tun = Tun::open(&TunConfig { name: name.to_owned(), mtu, queues }).unwrap();
    assert_eq!(tun.name(), name);
    ip("link set lo up");
    for address in addresses {
        let family = if address.contains(':') { "-6 " } else { "-4 " };
        let no_detection = if address.contains(':') { " nodad" } else { "" };
        ip(&format!("{family}address add {address} dev {name}{no_detection}"));
    }
    ip(&format!("link set {name} up"));
    tun
}

/// Runs `task` in a network namespace of its own. What it opens there stays there.
pub(crate) fn elsewhere<T: Send + 'static>(task: impl FnOnce() -> T + Send + 'static) -> T {
    let runtime = tokio::runtime::Handle::current();
    let thread = std::thread::spawn(move || {
        let _guard = runtime.enter();
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        task()
    });
    thread.join().unwrap()
}

/// The only link of a test's tunnel.
pub(crate) const LINK: LinkId = LinkId(1);

/// A machine's end of the tunnel.
pub(crate) struct Side {
    pub(crate) counters: Arc<Counters>,
    pub(crate) carrier: JoinHandle<End>,
    pub(crate) commands: mpsc::UnboundedSender<carrier::Command>,
    pub(crate) notices: mpsc::UnboundedReceiver<Notice>,
}

impl Side {
    fn new(tun: &Tun, way: Way, addresses: &[&str]) -> Self {
        let assigned: Vec<_> =
            addresses.iter().map(|prefix| AssignedAddress::unrequested(prefix.parse().unwrap())).collect();
        let counters = Arc::new(Counters::default());
        let (commands, heard) = mpsc::unbounded_channel();
        let (told, notices) = mpsc::unbounded_channel();
        let queue = tun.queues().into_iter().next().unwrap();
        let carrier = tokio::spawn(carrier::run(queue, heard, told, Arc::clone(&counters)));
        for command in [
            carrier::Command::Policy(Policy::from_assigned(&assigned)),
            carrier::Command::Add(LINK, Box::new(way)),
            carrier::Command::Activate(LINK),
        ] {
            commands.send(command).unwrap();
        }
        Self { counters, carrier, commands, notices }
    }
}

/// Both ends of an open tunnel over loopback.
async fn ends() -> (Way, Way) {
    let (client, server) = configurations();
    let socket = || UdpSocket::new(std::net::UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap()).unwrap();
    let mut server =
        Hub::new(socket(), EndpointConfig::default(), Some(Service { config: server, matcher: Arc::default() }));
    let mut hub = Hub::new(socket(), EndpointConfig::default(), None);
    let request = ConnectRequest::new(AUTHORITY);
    let handle = hub.connect(client, server.local(), AUTHORITY, request, Instant::now()).unwrap();
    let serving = tokio::spawn(async move {
        loop {
            let now = Instant::now();
            server.receive(now).unwrap();
            server.handle_timeout(now);
            while let Some(incoming) = server.next_incoming() {
                server.accept(incoming, now).unwrap();
            }
            while let Some(handle) = server.next_changed(now) {
                let session = server.session(handle).unwrap();
                while let Some(event) = session.poll_event() {
                    if matches!(event, Event::Requested(..)) {
                        session.accept();
                        server.transmit(now);
                        return Way::Http3(Box::new(server), handle);
                    }
                }
            }
            server.transmit(now);
            let due = server.poll_timeout();
            tokio::select! {
                () = poll_fn(|context| server.poll_ready(context)) => {}
                () = tokio::time::sleep_until(due.unwrap_or(now).into()), if due.is_some() => {}
            }
        }
    });
    soon(establish(&mut hub, handle)).await.unwrap();
    (Way::Http3(Box::new(hub), handle), soon(serving).await.unwrap())
}

/// The device, in this namespace: 10.99.0.2 and fd99::2, and 10.99.0.3 that nobody assigned to it. The company's host,
/// elsewhere: 10.99.0.1 and fd99::1.
pub(crate) struct Lab {
    pub(crate) device: Side,
    pub(crate) company: Side,
}

/// Connects both; what `in_company` opens comes along.
pub(crate) async fn lab<T: Send + 'static>(mtu: u16, in_company: impl FnOnce() -> T + Send + 'static) -> (Lab, T) {
    let device = interface("m2m0", mtu, &["10.99.0.2/24", "10.99.0.3/24", "fd99::2/64"]);
    let (company, opened) = elsewhere(move || {
        let tun = interface("m2mgw0", mtu, &["10.99.0.1/24", "fd99::1/64"]);
        (tun, in_company())
    });
    let (client, server) = ends().await;
    let lab = Lab {
        device: Side::new(&device, client, &["10.99.0.2/32", "fd99::2/128"]),
        company: Side::new(&company, server, &["10.99.0.1/32", "fd99::1/128"]),
    };
    (lab, opened)
}
