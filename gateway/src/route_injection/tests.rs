//! Against the kernel, in a network namespace of the test's own.

use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use super::*;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs `work` on a thread that is in a new network namespace, with a tunnel interface that is up.
fn in_a_namespace<F: Future<Output = ()>>(work: impl FnOnce(u32) -> F + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; these tests need root");
        ip("tuntap add dev tun0 mode tun");
        ip("link set tun0 up");
        ip("link set lo up");
        let index = nix::net::if_::if_nametoindex("tun0").unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work(index));
    });
    thread.join().unwrap();
}

fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The gateway's routes of one family, as `ip` shows them, without flags and spaces at the end, sorted.
fn routes(family: &str) -> Vec<String> {
    let text = ip(&format!("{family} route show proto 109"));
    let plain = |line: &str| line.split(" pref").next().unwrap().replace(" linkdown", "").trim().to_owned();
    let mut routes: Vec<_> = text.lines().map(plain).collect();
    routes.sort();
    routes
}

fn injection(inject: Inject, index: u32) -> Arc<RouteInjection> {
    let ranges = Ranges { ipv4: "10.99.0.0/16".parse().ok(), ipv6: "fd99::/64".parse().ok() };
    Arc::new(RouteInjection::new(inject, ranges, index))
}

fn addresses(number: u16) -> Addresses {
    let [high, low] = number.to_be_bytes();
    Addresses {
        ipv4: Some([10, 99, high, low].into()),
        ipv6: Some(std::net::Ipv6Addr::from([0xfd99, 0, 0, 0, 0, 0, 0, number])),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn the_kernel_has_a_route_for_each_session() {
    in_a_namespace(|index| async move {
        // A former gateway's, and others' routes.
        ip("route add 10.99.0.77/32 dev tun0 proto 109 metric 7");
        ip("route add unreachable 10.98.0.0/16 proto 109 metric 4294967295");
        ip("-6 route add fd99::77/128 dev tun0 proto 109");
        ip("route add 10.99.0.78/32 dev tun0 proto static");
        ip("route add 10.99.0.79/32 dev lo proto 109");
        let routes_here = injection(Inject::HostRoutes, index);
        assert_eq!(
            routes_here.interface_addresses(&addresses(1)),
            ["10.99.0.1/32".parse().unwrap(), "fd99::1/128".parse().unwrap()]
        );
        let task = tokio::spawn(run(Arc::clone(&routes_here)));
        let nobody = ["10.99.0.79 dev lo scope link", "unreachable 10.99.0.0/16 metric 4294967295"];
        wait_until("the old routes are gone", || routes("-4") == nobody).await;
        wait_until("in IPv6, too", || routes("-6") == ["unreachable fd99::/64 dev lo metric 4294967295"]).await;

        routes_here.joined(&addresses(2), None, at(1_000_000));
        let one = |metric: u32| format!("10.99.0.2 dev tun0 scope link metric {metric}");
        wait_until("the device has its route", || routes("-4").contains(&one(4_293_967_295))).await;
        wait_until("in IPv6, too", || routes("-6").contains(&"fd99::2 dev tun0 metric 4293967295".to_owned())).await;
        // It comes again: the newer session's route is the better one, and the only one.
        routes_here.joined(&addresses(2), Some(&addresses(2)), at(1_000_010));
        wait_until("the newer session has the better route", || {
            let found = routes("-4");
            found.contains(&one(4_293_967_285)) && !found.contains(&one(4_293_967_295))
        })
        .await;
        // Its addresses have changed.
        routes_here.joined(&addresses(3), Some(&addresses(2)), at(1_000_020));
        wait_until("the former address has no route", || {
            let found = routes("-4").join("\n");
            found.contains("10.99.0.3 ") && !found.contains("10.99.0.2 ")
        })
        .await;
        routes_here.left(&addresses(3));
        wait_until("the routes are as before", || routes("-4") == nobody && routes("-6").len() == 1).await;
        assert_eq!(ip("route show proto static").trim().replace(" linkdown", ""), "10.99.0.78 dev tun0 scope link");

        // The next gateway on this machine has one route for all.
        task.abort();
        let _ = task.await;
        let pool = injection(Inject::Pool, index);
        assert_eq!(pool.interface_addresses(&addresses(1))[0], "10.99.0.1/16".parse().unwrap());
        let task = tokio::spawn(run(Arc::clone(&pool)));
        pool.joined(&addresses(2), None, at(1_000_000));
        wait_until("nothing is left", || routes("-4") == nobody[..1] && routes("-6").is_empty()).await;
        task.abort();
    });
}

#[test]
fn an_interface_that_was_down_gets_its_routes_again() {
    in_a_namespace(|index| async move {
        ip("link set tun0 down");
        let routes_here = injection(Inject::HostRoutes, index);
        let task = tokio::spawn(run(Arc::clone(&routes_here)));
        routes_here.joined(&addresses(2), None, at(1_000_000));
        wait_until("the pool is unreachable", || routes("-4").len() == 1).await;
        ip("link set tun0 up");
        wait_until("the device has its routes", || routes("-4").len() == 2 && routes("-6").len() == 2).await;
        task.abort();
    });
}

/// Ten thousand devices come at once, and go. What it took is printed (`--nocapture`).
#[test]
fn ten_thousand_devices_come_and_go() {
    const DEVICES: u16 = 10_000;
    in_a_namespace(|index| async move {
        let routes_here = injection(Inject::HostRoutes, index);
        let task = tokio::spawn(run(Arc::clone(&routes_here)));
        wait_until("the pool is unreachable", || routes("-4").len() == 1).await;
        let kernel = Kernel::connect(index).unwrap();
        let listed = async || kernel.routes(&routes_here.ranges).await.unwrap().len();

        let begun = Instant::now();
        for number in 2..DEVICES + 2 {
            routes_here.joined(&addresses(number), None, at(1_000_000));
        }
        let told = begun.elapsed();
        wait_until("all have their routes", || routes_here.ledger().is_settled()).await;
        let installed = begun.elapsed();
        let begun = Instant::now();
        assert_eq!(listed().await, 2 * usize::from(DEVICES) + 2);
        let looked = begun.elapsed();

        let begun = Instant::now();
        for number in 2..DEVICES + 2 {
            routes_here.left(&addresses(number));
        }
        wait_until("none has a route", || routes_here.ledger().is_settled()).await;
        let removed = begun.elapsed();
        assert_eq!(listed().await, 2);
        let routes = 2 * u32::from(DEVICES);
        println!(
            "{DEVICES} devices, {routes} routes: told {told:?}, installed {installed:?}, listed {looked:?}, removed {removed:?}"
        );
        task.abort();
    });
}
