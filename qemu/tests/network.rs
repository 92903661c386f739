//! The network of the lab, and that nothing of it outlives it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::{Command, Stdio},
    time::Duration,
};

use m2m_lab::{
    DeviceNode, Firewall, Lab, LabOptions, Policy,
    addresses::{GATEWAY_V4, GATEWAY_V6, INTRANET_V4, MANAGER_V4, ROUTER_V4, ROUTER_V6},
    wait_until,
};

const LIMIT: Duration = Duration::from_secs(10);

fn lab(token: &str) -> Lab {
    Lab::start(LabOptions { token: token.to_owned(), ..LabOptions::default() }).unwrap()
}

/// One question for an address (type A) and the answer's address, if any.
fn resolve(host: &DeviceNode, server: IpAddr, name: &str) -> Option<Ipv4Addr> {
    let mut question = vec![0x4d, 0x32, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).unwrap());
        question.extend_from_slice(label.as_bytes());
    }
    question.extend_from_slice(&[0, 0, 1, 0, 1]);
    let answer = ask(host, SocketAddr::new(server, 53), &question);
    let has_answer = answer[7] > 0;
    has_answer.then(|| Ipv4Addr::from(<[u8; 4]>::try_from(&answer[answer.len() - 4..]).unwrap()))
}

fn ask(host: &DeviceNode, server: SocketAddr, question: &[u8]) -> Vec<u8> {
    let any: IpAddr = if server.is_ipv4() { "0.0.0.0".parse().unwrap() } else { "::".parse().unwrap() };
    let socket = host.node.within(|| UdpSocket::bind((any, 0))).unwrap().unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    socket.send_to(question, server).unwrap();
    let mut answer = vec![0; 512];
    let length = socket.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

#[test]
fn a_host_on_the_device_link_reaches_gateway_and_manager_but_not_the_company() {
    let mut lab = lab("");
    let host = lab.plug("host", Firewall::Open).unwrap();
    let gateway = &lab.topology().gateway;
    for address in [IpAddr::from(GATEWAY_V4), GATEWAY_V6.into()] {
        let listener = gateway.within(|| TcpListener::bind((address, 443))).unwrap().unwrap();
        host.node.wait_for_tcp((address, 443)).unwrap();
        let (_, client) = listener.accept().unwrap();
        let seen_behind_nat: IpAddr = if address.is_ipv4() { "198.51.100.1".parse().unwrap() } else { host.v6.into() };
        assert_eq!(client.ip(), seen_behind_nat);
    }

    let company = SocketAddr::from((INTRANET_V4, 80));
    let unreached = host.node.within(|| TcpStream::connect_timeout(&company, Duration::from_secs(1))).unwrap();
    assert!(unreached.is_err(), "the company is reached without a tunnel");

    let leaks = lab.capture().unwrap().audit(&Policy::lab()).unwrap();
    assert!(!leaks.is_empty(), "TCP to the company is outside of the policy");
}

#[test]
fn the_router_answers_dns_and_ntp_and_the_audit_accepts_both() {
    let mut lab = lab("");
    let host = lab.plug("host", Firewall::Open).unwrap();
    for server in [IpAddr::from(ROUTER_V4), ROUTER_V6.into()] {
        assert_eq!(resolve(&host, server, "gateway.example"), Some(GATEWAY_V4));
        assert_eq!(resolve(&host, server, "manager.example"), Some(MANAGER_V4));
    }
    let mut request = [0; 48];
    request[0] = 0x23;
    let answer = ask(&host, (ROUTER_V4, 123).into(), &request);
    assert_eq!((answer.len(), answer[0]), (48, 0x24));

    let leaks = lab.capture().unwrap().audit(&Policy::lab()).unwrap();
    assert_eq!(leaks, []);
}

#[test]
fn a_name_of_the_company_is_unknown_outside_and_asking_for_it_is_a_leak() {
    let mut lab = lab("");
    let host = lab.plug("host", Firewall::Open).unwrap();
    assert_eq!(resolve(&host, ROUTER_V4.into(), "intranet.corp.example"), None);
    let leaks = lab.capture().unwrap().audit(&Policy::lab()).unwrap();
    assert!(leaks.iter().any(|leak| leak.summary.contains("asks for intranet.corp.example")), "{leaks:?}");
}

#[test]
fn one_planted_packet_fails_the_audit() {
    let mut lab = lab("");
    let host = lab.plug("host", Firewall::Open).unwrap();
    resolve(&host, ROUTER_V4.into(), "gateway.example").unwrap();
    assert_eq!(lab.capture().unwrap().audit(&Policy::lab()).unwrap(), []);

    let sent = host.node.within(|| UdpSocket::bind("0.0.0.0:0").and_then(|s| s.send_to(b"leak", "198.51.100.99:4321")));
    sent.unwrap().unwrap();
    let leaks = lab.capture().unwrap().audit(&Policy::lab()).unwrap();
    assert_eq!(leaks.len(), 1, "{leaks:?}");
    assert!(leaks[0].summary.contains("to 198.51.100.99 port 4321"), "{leaks:?}");
}

#[test]
fn the_product_firewall_lets_nothing_out_by_itself() {
    let mut lab = lab("");
    let device = lab.plug("device1", Firewall::Product).unwrap();
    let attempts = device.node.within(|| {
        let udp = UdpSocket::bind("0.0.0.0:0").unwrap();
        let _ = udp.send_to(b"x", (GATEWAY_V4, 443));
        let _ = udp.send_to(b"x", (ROUTER_V4, 53));
        let _ = UdpSocket::bind("[::]:0").unwrap().send_to(b"x", (GATEWAY_V6, 443));
        TcpStream::connect_timeout(&(MANAGER_V4, 443).into(), Duration::from_secs(1)).is_ok()
    });
    assert!(!attempts.unwrap());
    let frames = lab.capture().unwrap().frames().unwrap();
    let from_device = frames.iter().filter(|frame| frame.bytes.windows(4).any(|bytes| bytes == device.v4.octets()));
    // ARP may ask who has the router; nothing carries a payload.
    assert!(from_device.clone().all(|frame| frame.bytes[12..14] == [8, 6]), "{:?}", from_device.collect::<Vec<_>>());
    assert_eq!(Policy::lab().audit(&frames), []);
}

#[test]
fn two_labs_run_at_once_with_the_same_names_and_addresses() {
    let labs = [lab("first"), lab("second")];
    for (lab, token) in labs.iter().zip(["first", "second"]) {
        let mut page = String::new();
        let stream = lab.topology().gateway.within(|| TcpStream::connect((INTRANET_V4, 80))).unwrap();
        let mut stream = stream.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: intranet\r\n\r\n").unwrap();
        stream.read_to_string(&mut page).unwrap();
        assert!(page.ends_with(&format!("m2mvpn lab {token}\n")), "{page}");
        assert_eq!(lab.web().clients(), [IpAddr::from([10, 20, 0, 1])]);
    }
}

#[test]
fn a_cable_can_be_pulled_and_plugged_in_again() {
    let lab = lab("");
    let host = lab.plug("host", Firewall::Open).unwrap();
    let _listener = lab.topology().gateway.within(|| TcpListener::bind((GATEWAY_V4, 443))).unwrap().unwrap();
    let reached = || {
        let connect = || TcpStream::connect_timeout(&(GATEWAY_V4, 443).into(), Duration::from_millis(500)).is_ok();
        host.node.within(connect).unwrap()
    };
    assert!(reached());
    host.set_link(false).unwrap();
    assert!(!reached());
    host.set_link(true).unwrap();
    wait_until("the link to work again", LIMIT, reached).unwrap();
}

/// Every network namespace that a process of this machine is in.
fn network_namespaces() -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|entry| fs::read_link(entry.path().join("ns/net")).ok())
        .map(|link| link.to_string_lossy().into_owned())
        .collect()
}

fn processes_in(namespaces: &BTreeSet<String>) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter(|entry| {
            let link = fs::read_link(entry.path().join("ns/net"));
            link.is_ok_and(|link| namespaces.contains(&*link.to_string_lossy()))
        })
        .map(|entry| fs::read_to_string(entry.path().join("comm")).unwrap_or_default())
        .collect()
}

#[test]
fn whatever_ends_the_process_nothing_stays_behind() {
    let files = || {
        let list = |dir: &str| {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains("lab")).collect::<Vec<_>>()
        };
        (list("/run"), list("/run/netns"), list("/tmp"), fs::read_to_string("/proc/self/mounts").unwrap())
    };
    let files_before = files();
    let mut child =
        Command::new(env!("CARGO_BIN_EXE_m2m-story")).arg("--network-only").stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let init: u32 = lines.find_map(|line| line.strip_prefix("lab process ")?.parse().ok()).unwrap();

    let namespaces: BTreeSet<String> = fs::read_dir(format!("/proc/{init}/root/run/netns"))
        .unwrap()
        .flatten()
        .map(|entry| {
            use std::os::unix::fs::MetadataExt;
            format!("net:[{}]", entry.metadata().unwrap().ino())
        })
        .collect();
    assert!(namespaces.len() >= 5);
    assert!(!processes_in(&namespaces).is_empty());

    child.kill().unwrap(); // SIGKILL: no code of the child runs after it
    child.wait().unwrap();
    wait_until("the end of the lab's processes", LIMIT, || {
        processes_in(&namespaces).is_empty() && !fs::exists(format!("/proc/{init}")).unwrap()
    })
    .unwrap();
    assert!(network_namespaces().is_disjoint(&namespaces));
    assert_eq!(files(), files_before);
}
