//! A network that lets nothing out but through an HTTP proxy with a password.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use m2m_lab::addresses::{GATEWAY_V4, MANAGER_V4};
use m2m_lab::wait_until;
use m2m_tests::LIMIT;

use crate::stage::{Stage, UDP};

const PORT: u16 = 3128;

#[test]
fn the_tunnel_goes_through_a_proxy_with_a_password() {
    let stage = Stage::set();
    let _gateway = stage.start_gateway();
    stage.block(&format!("{UDP}\nip saddr != {MANAGER_V4} ip daddr {GATEWAY_V4} tcp dport 443 drop"));
    let node = &stage.lab.topology().manager;
    let inside = |name: &str| stage.directory.join(name);
    let (file, password) = (inside("tinyproxy.conf"), inside("proxy.password"));
    let text = format!("Port {PORT}\nBasicAuth atm secret\nConnectPort 443\nTimeout 600\nLogLevel Connect\n");
    fs::write(stage.lab.outside(&file), text).unwrap();
    fs::write(stage.lab.outside(&password), "secret\n").unwrap();
    fs::set_permissions(stage.lab.outside(&password), fs::Permissions::from_mode(0o600)).unwrap();
    let mut proxy = node.spawn("tinyproxy", node.command("tinyproxy").args(["-d", "-c"]).arg(&file)).unwrap();
    node.wait_for_tcp((MANAGER_V4, PORT)).unwrap();

    let place = password.display();
    let proxied = format!("http://{MANAGER_V4}:{PORT}");
    let (target, code) = (format!("https://{GATEWAY_V4}"), "%{http_connect}");
    let nobody = stage.device.node.exec(&["curl", "-s", "-m", "10", "-w", code, "-x", &proxied, &target]).unwrap();
    assert!(["401", "407"].contains(&nobody.stdout.as_str()), "without a password: {nobody:?}");
    let heartbeat = stage.heartbeat();
    let started = Instant::now();
    let mut device =
        stage.start_device(&format!("proxy = {{ url = \"{proxied}\", user = \"atm\", password_file = \"{place}\" }}"));
    wait_until("the first datagram", LIMIT, || heartbeat.first().is_some()).unwrap();
    println!("first datagram {:?} after the start of vpnd", heartbeat.first().unwrap() - started);
    device.wait_until_up("HTTP/2");
    let stream = stage.stream();
    stream.wait_for_more();
    println!("no datagram for {:?}, no byte for {:?}", heartbeat.take_gap(), stream.take_gap());
    stream.finish();
    let connected = format!("CONNECT {GATEWAY_V4}:443");
    assert!(proxy.log().contains(&connected), "{}", proxy.log());
    proxy.must_run().unwrap();
}
