//! Clients that do not behave.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use m2m_identity::{PemKey, certificate_request};
use m2m_protocol::enrolment::{CONFIGURATION_PATH, ENROL_PATH, MAX_BODY, Pending};

use crate::client::Client;
use crate::device::{Device, identity};
use crate::emulator::Emulator;
use crate::manager::{Manager, run};

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_a_problem() {
    let manager = Manager::start();
    let client = Client::anonymous(&manager);
    client.get("/").await.problem(404);
    client.get(ENROL_PATH).await.problem(405);
    client.post(ENROL_PATH, vec![b' '; MAX_BODY + 1]).await.problem(413);
    client.get(CONFIGURATION_PATH).await.problem(403);
    client.send(Method::DELETE, "/crl.der", &[], Vec::new()).await.unwrap().problem(405);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_asks_too_often_has_to_wait() {
    let manager = Manager::start_with("limits = { enrolments_per_minute = 3 }");
    let client = Client::anonymous(&manager);
    for _ in 0..3 {
        client.post(ENROL_PATH, "{}").await.problem(400);
    }
    let answer = client.post(ENROL_PATH, "{}").await;
    answer.problem(429);
    let wait: u32 = answer.header("retry-after").parse().unwrap();
    assert!((1..=21).contains(&wait), "{wait}");
    // Everything else is served.
    assert!(client.get("/crl.der").await.status.is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn not_more_devices_wait_than_are_configured() {
    let manager = Manager::start_with("limits = { pending_devices = 1 }");
    let (one, other) = (Emulator::start(), Emulator::start());
    let first = Device::new(&one, "SN-1");
    first.enrol(&manager).await.json::<Pending>(202);
    let second = Device::new(&other, "SN-2");
    let answer = second.enrol(&manager).await;
    assert!(answer.problem(503).contains("device list --state pending") && answer.header("retry-after") == "7");
    first.enrol(&manager).await.json::<Pending>(202);
    assert_eq!(manager.ask(&["device", "list"]).as_array().unwrap().len(), 1);
    manager.tell(&["device", "approve", "SN-1"]);
    second.enrol(&manager).await.json::<Pending>(202);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_ca_is_refused_in_the_handshake() {
    let (manager, other) = (Manager::start(), Manager::start());
    let key = PemKey::generate().unwrap();
    let path = other.directory.path().join("csr");
    std::fs::write(&path, certificate_request(&key, "x").unwrap()).unwrap();
    let issued = run(other.directory.path(), &["device", "issue", "SN-1", "--csr", path.to_str().unwrap()]);
    let identity = identity(&String::from_utf8(issued.stdout).unwrap(), Arc::new(key));
    assert!(Client::with(&other, &identity).get(CONFIGURATION_PATH).await.status.is_success());
    let refused = Client::with(&manager, &identity).send(Method::GET, "/healthz", &[], Vec::new()).await;
    assert!(refused.is_err());
}

#[test]
fn what_is_not_tls_is_cut_off() {
    let manager = Manager::start();
    let mut stream = TcpStream::connect(manager.address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nhost: manager.example\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    // At most an alert record.
    assert!(answer.is_empty() || answer[0] == 21, "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_client_is_cut_off_and_keeps_nobody_out() {
    let manager = Manager::start_with("limits = { connections = 2 }");
    let mut silent = [TcpStream::connect(manager.address).unwrap(), TcpStream::connect(manager.address).unwrap()];
    // There is no slot until the handshakes of the silent ones have timed out.
    assert_eq!(Client::anonymous(&manager).get("/healthz").await.text(), "ok\n");
    for stream in &mut silent {
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        assert_eq!(stream.read(&mut [0; 64]).unwrap(), 0);
    }
}
