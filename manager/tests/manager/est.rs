//! Enrollment over Secure Transport, as a client that knows only RFC 7030 sees it.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Method, StatusCode};
use m2m_identity::tls::Identity;
use m2m_identity::{DeviceKey, PemKey, certificate_request};
use m2m_protocol::device_config::DeviceConfig;
use m2m_protocol::enrolment::{CONFIGURATION_PATH, Enrolled};

use crate::client::{Answer, Client};
use crate::device::{Device, certificate_serial, identity};
use crate::emulator::Emulator;
use crate::enrolment::revocation_list;
use crate::manager::Manager;

const CACERTS: &str = "/.well-known/est/cacerts";
const ENROLL: &str = "/.well-known/est/simpleenroll";
const REENROLL: &str = "/.well-known/est/simplereenroll";

#[tokio::test(flavor = "multi_thread")]
async fn cacerts_are_what_openssl_takes_for_pkcs7() {
    let manager = Manager::start();
    let answer = Client::anonymous(&manager).get(CACERTS).await;
    assert_eq!(answer.header("content-type"), "application/pkcs7-mime");
    assert_eq!(answer.header("content-transfer-encoding"), "base64");
    let certificates = certificates(&answer);
    let root = std::fs::read_to_string(manager.state("root.pem")).unwrap();
    let issuing = std::fs::read_to_string(manager.state("issuing.pem")).unwrap();
    assert!(certificates.contains(root.trim()) && certificates.contains(issuing.trim()), "{certificates}");
    assert_eq!(certificates.matches("BEGIN CERTIFICATE").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_certificate() {
    let manager = Manager::start();
    let token = manager.tell(&["device", "token", "SN-0007"]);
    let key = PemKey::generate().unwrap();
    let csr = request(&key, "SN-0007");

    for (serial, password) in [("", ""), ("SN-0007", "wrong"), ("SN-0008", token.as_str()), ("../x", token.as_str())] {
        let answer = enroll(&manager, serial, password, &csr).await;
        answer.problem(401);
        assert!(answer.header("www-authenticate").starts_with("Basic realm="));
    }
    let answer = Client::anonymous(&manager).post(ENROLL, csr.clone()).await;
    assert!(answer.problem(401).contains("device token"));
    // A request that cannot be signed does not use the token up.
    for wrong in ["", "%", "AAAA"] {
        let problem = enroll(&manager, "SN-0007", &token, wrong).await.problem(400);
        assert!(problem.starts_with("csr: "), "{problem}");
    }

    let answer = enroll(&manager, "SN-0007", &token, &csr).await;
    assert_eq!(answer.header("content-type"), "application/pkcs7-mime; smime-type=certs-only");
    let identity = enrolled(&manager, &answer, key);
    enroll(&manager, "SN-0007", &token, &csr).await.problem(401);
    let configuration: DeviceConfig = Client::with(&manager, &identity).get(CONFIGURATION_PATH).await.json(200);
    let hash = sha256(identity.key().spki_der());
    assert_eq!(configuration.device_id.as_str(), format!("dev-{}", &hash[..16]));

    // A new key with a new token: the same device.
    let token = manager.tell(&["device", "token", "SN-0007", "--valid", "1h"]);
    let key = PemKey::generate().unwrap();
    let csr = request(&key, "SN-0007");
    let second = enrolled(&manager, &enroll(&manager, "SN-0007", &token, &csr).await, key);
    let again: DeviceConfig = Client::with(&manager, &second).get(CONFIGURATION_PATH).await.json(200);
    assert_eq!(again.device_id, configuration.device_id);
    assert!(revocation_list(&manager).await.contains(&certificate_serial(&identity)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_expires_and_does_not_bring_a_revoked_device_back() {
    let manager = Manager::start();
    let key = PemKey::generate().unwrap();
    let csr = request(&key, "SN-0007");
    let token = manager.tell(&["device", "token", "SN-0007", "--valid", "1s"]);
    // While the token is good, it is the request that is complained about.
    let deadline = Instant::now() + Duration::from_secs(20);
    while enroll(&manager, "SN-0007", &token, "AAAA").await.status != StatusCode::UNAUTHORIZED {
        assert!(Instant::now() < deadline, "the token does not expire");
    }
    enroll(&manager, "SN-0007", &token, &csr).await.problem(401);

    let token = manager.tell(&["device", "token", "SN-0007"]);
    enrolled(&manager, &enroll(&manager, "SN-0007", &token, &csr).await, key);
    manager.tell(&["device", "revoke", "SN-0007"]);
    let token = manager.tell(&["device", "token", "SN-0007"]);
    assert!(enroll(&manager, "SN-0007", &token, &csr).await.problem(403).contains("revoked"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_renews_its_certificate() {
    let manager = Manager::start();
    let token = manager.tell(&["device", "token", "SN-0007"]);
    let key = PemKey::generate().unwrap();
    let csr = request(&key, "SN-0007");
    let first = enrolled(&manager, &enroll(&manager, "SN-0007", &token, &csr).await, key);
    let client = Client::with(&manager, &first);
    let id = client.get(CONFIGURATION_PATH).await.json::<DeviceConfig>(200).device_id;

    let key = PemKey::generate().unwrap();
    let csr = request(&key, id.as_str());
    Client::anonymous(&manager).post(REENROLL, csr.clone()).await.problem(403);
    let problem = client.post(REENROLL, request(&key, "dev-other")).await.problem(400);
    assert!(problem.starts_with("csr: ") && problem.contains(id.as_str()), "{problem}");
    let second = enrolled(&manager, &client.post(REENROLL, csr).await, key);
    for identity in [&first, &second] {
        let answer = Client::with(&manager, identity).get(CONFIGURATION_PATH).await;
        assert_eq!(answer.json::<DeviceConfig>(200).device_id, id);
    }

    manager.tell(&["device", "revoke", id.as_str()]);
    let list = revocation_list(&manager).await;
    for identity in [&first, &second] {
        assert!(list.contains(&certificate_serial(identity)), "{list}");
        let client = Client::with(&manager, identity);
        client.post(REENROLL, request(&PemKey::generate().unwrap(), id.as_str())).await.problem(403);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tpm_device_renews_with_its_own_key_only_and_no_token_takes_its_place() {
    let (manager, emulator) = (Manager::start(), Emulator::start());
    manager.tell(&["ek-ca", "add", emulator.issuer().to_str().unwrap()]);
    let device = Device::new(&emulator, "SN-0001");
    let answer: Enrolled = device.enrol(&manager).await.json(200);
    let identity = device.identity(&answer);
    let id = answer.configuration.device_id;
    let client = Client::with(&manager, &identity);

    let software = PemKey::generate().unwrap();
    let problem = client.post(REENROLL, request(&software, id.as_str())).await.problem(403);
    assert!(problem.contains("TPM"), "{problem}");
    let answer = client.post(REENROLL, request(&device.key, id.as_str())).await;
    assert_eq!(certificates(&answer).matches("BEGIN CERTIFICATE").count(), 1);

    let token = manager.tell(&["device", "token", "SN-0001"]);
    let problem = enroll(&manager, "SN-0001", &token, &request(&software, "SN-0001")).await.problem(403);
    assert!(problem.contains("TPM"), "{problem}");
}

async fn enroll(manager: &Manager, user: &str, password: &str, csr: &str) -> Answer {
    let credentials = format!("Basic {}", STANDARD.encode(format!("{user}:{password}")));
    let headers = [("authorization", credentials), ("content-type", "application/pkcs10".to_owned())];
    Client::anonymous(manager).send(Method::POST, ENROLL, &headers, csr.as_bytes().to_vec()).await.unwrap()
}

/// A request in base64 with line breaks.
fn request(key: &dyn DeviceKey, name: &str) -> String {
    let text = STANDARD.encode(certificate_request(key, name).unwrap());
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    lines.join("\r\n")
}

/// The identity of `key` with the one certificate in `answer`.
fn enrolled(manager: &Manager, answer: &Answer, key: PemKey) -> Identity {
    let certificates = certificates(answer);
    assert_eq!(certificates.matches("BEGIN CERTIFICATE").count(), 1);
    let issuing = std::fs::read_to_string(manager.state("issuing.pem")).unwrap();
    let blocks = pem::parse_many(format!("{certificates}\n{issuing}")).unwrap();
    identity(&pem::encode_many(&blocks), Arc::new(key))
}

/// The certificates in `answer` as openssl prints them.
fn certificates(answer: &Answer) -> String {
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let text: String = answer.text().split_whitespace().collect();
    let mut openssl = Command::new("openssl")
        .args(["pkcs7", "-inform", "DER", "-print_certs"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(&STANDARD.decode(text).unwrap()).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
