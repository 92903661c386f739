//! Two gateways in one site: the company's packets for a device come to the gateway that has a route to it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use m2m_lab::{Lab, LabOptions, Node, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
/// What is promised for a change of the route.
const PROMISE: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(2);
const PORT: u16 = 7;

/// Stands for m2m-gateway and the devices behind it: whoever has one of the pool's addresses answers on the gateway itself.
struct Site<'a> {
    node: &'a Node,
    sockets: Vec<UdpSocket>,
}

impl<'a> Site<'a> {
    fn new(node: &'a Node, devices: &[IpAddr]) -> Self {
        node.ip("tuntap add dev m2mgw0 mode tun").unwrap();
        node.set_link("m2mgw0", true).unwrap();
        let sockets = devices.iter().map(|device| {
            node.ip(&format!("address add {device} dev lo {}", if device.is_ipv4() { "" } else { "nodad" })).unwrap();
            let socket = node.within(|| UdpSocket::bind((*device, PORT))).unwrap().unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        });
        Self { node, sockets: sockets.collect() }
    }

    /// What m2m-gateway does when a device comes, or goes; a later session has a lower metric.
    fn route(&self, verb: &str, device: IpAddr, metric: u32) {
        let family = if device.is_ipv4() { "" } else { "-6 " };
        self.node.ip(&format!("{family}route {verb} {device} dev m2mgw0 proto 109 metric {metric}")).unwrap();
    }

    /// Whether datagrams came since the last call; they are answered.
    fn is_reached(&self) -> bool {
        let mut reached = false;
        for socket in &self.sockets {
            let mut buffer = [0; 64];
            loop {
                match socket.recv_from(&mut buffer) {
                    Ok((length, sender)) => {
                        reached = true;
                        let _ = socket.send_to(&buffer[..length], sender);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("{error}"),
                }
            }
        }
        reached
    }
}

/// Makes a `change` and sends to `device` from the company until `site` gets it; how long that took.
fn time_until_reached(socket: &UdpSocket, device: IpAddr, site: &Site<'_>, change: impl FnOnce() + Send) -> Duration {
    site.is_reached();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        // The command that makes the change may take longer than the change itself.
        scope.spawn(change);
        loop {
            // While there is no way, the kernel says so.
            let _ = socket.send_to(b"?", SocketAddr::new(device, PORT));
            if site.is_reached() {
                return begun.elapsed();
            }
            assert!(begun.elapsed() < LIMIT, "{device} is not reached on {}", site.node.name());
            std::thread::sleep(PAUSE);
        }
    })
}

#[test]
fn packets_for_a_device_follow_its_route_from_gateway_to_gateway() {
    let mut lab = Lab::start(LabOptions { routing: true, ..LabOptions::default() }).unwrap();
    let devices: [IpAddr; 2] = ["10.99.0.17".parse().unwrap(), "fd99::17".parse().unwrap()];
    let (one, two) = (lab.topology().gateway.clone(), lab.topology().gateway2.clone());
    let company = lab.topology().company.clone();
    let (one, two) = (Site::new(&one, &devices), Site::new(&two, &devices));
    for device in devices {
        let any: IpAddr = if device.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
        let socket = company.within(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
        let is_quiet = |site: &Site<'_>| {
            let _ = socket.send_to(b"?", SocketAddr::new(device, PORT));
            std::thread::sleep(PAUSE);
            !site.is_reached()
        };
        let note = |what: &str, time: Duration| {
            println!("{device} {what}: {:.0} ms", time.as_secs_f64() * 1000.0);
            assert!(time < PROMISE, "{device}: {what} after {time:?}");
        };

        // It comes to the second gateway, although the company's default route leads to the first.
        let came = time_until_reached(&socket, device, &two, || two.route("add", device, 1000));
        note("comes to gateway2", came);

        // It moves to the first gateway and is at both for a while: the newer session counts.
        let moved = time_until_reached(&socket, device, &one, || one.route("add", device, 900));
        note("moves to gateway", moved);
        wait_until("gateway2 gets nothing", LIMIT, || is_quiet(&two)).unwrap();
        two.route("del", device, 1000);
        assert!(!is_quiet(&one));

        // It moves back, and the first gateway knows at once that it is gone.
        let moved = time_until_reached(&socket, device, &two, || {
            two.route("add", device, 950);
            one.route("del", device, 900);
        });
        note("moves to gateway2", moved);

        // Its gateway is cut off: nobody withdraws the route.
        two.route("add", device, 800);
        one.route("add", device, 850);
        two.route("del", device, 950);
        wait_until("gateway gets nothing", LIMIT, || is_quiet(&one)).unwrap();
        let cut = time_until_reached(&socket, device, &one, || company.set_link("gateway2", false).unwrap());
        note("its gateway is cut off", cut);
        let back = time_until_reached(&socket, device, &two, || company.set_link("gateway2", true).unwrap());
        println!("{device} its gateway is back: {:.0} ms", back.as_secs_f64() * 1000.0);
        one.route("del", device, 850);
        two.route("del", device, 800);
    }
    lab.routing().unwrap().must_run().unwrap();
}
