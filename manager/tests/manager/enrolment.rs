//! Enrolment by TPM, from the introduction to revocation.

use std::io::Write;
use std::process::{Command, Stdio};

use m2m_protocol::device_config::DeviceConfig;
use m2m_protocol::enrolment::{CONFIGURATION_PATH, CRL_PATH, Challenge, ENROL_PATH, Enrolled, Pending};
use serde_json::{Value, json};

use crate::client::Client;
use crate::device::{Device, certificate_serial};
use crate::emulator::Emulator;
use crate::manager::Manager;

#[tokio::test(flavor = "multi_thread")]
async fn a_certified_tpm_gets_in_at_once_and_keeps_its_id() {
    let (manager, emulator) = (Manager::start(), Emulator::start());
    manager.tell(&["ek-ca", "add", emulator.issuer().to_str().unwrap(), "--serial", "SN-*"]);
    let mut device = Device::new(&emulator, "SN-0001");
    let enrolled: Enrolled = device.enrol(&manager).await.json(200);
    let id = enrolled.configuration.device_id.to_string();
    let first = device.identity(&enrolled);

    let (_, certificate) = x509_parser::parse_x509_certificate(&first.chain()[0]).unwrap();
    assert_eq!(certificate.subject().to_string(), format!("CN={id}"));
    assert_eq!(first.chain().len(), 2);
    let hash = manager.ask(&["device", "show", &id])["device"]["ek_hash"].as_str().unwrap().to_owned();
    assert_eq!(id, format!("dev-{}", &hash[..16]));
    let configuration: DeviceConfig = Client::with(&manager, &first).get(CONFIGURATION_PATH).await.json(200);
    assert_eq!(configuration, enrolled.configuration);
    assert_eq!(configuration.tunnel.gateways[0].origin.to_string(), "https://gateway.example");

    // The disk was erased: a new key, the same TPM.
    device.make_key();
    let again: Enrolled = device.enrol(&manager).await.json(200);
    assert_eq!(again.configuration.device_id.as_str(), id);
    let second = device.identity(&again);
    assert!(Client::with(&manager, &second).get(CONFIGURATION_PATH).await.status.is_success());
    let problem = Client::with(&manager, &first).get(CONFIGURATION_PATH).await.problem(403);
    assert!(problem.contains("revoked"), "{problem}");
    let list = revocation_list(&manager).await;
    assert!(list.contains(&certificate_serial(&first)) && list.contains("Superseded"), "{list}");
    assert!(!list.contains(&certificate_serial(&second)));
    assert_eq!(manager.ask(&["device", "list"]).as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_waits_is_approved_revoked_and_approved_again() {
    let (manager, emulator) = (Manager::start(), Emulator::start());
    let device = Device::new(&emulator, "SN-0001");
    for _ in 0..2 {
        let pending: Pending = device.enrol(&manager).await.json(202);
        assert_eq!(pending.retry_after_s, 7);
        assert!(pending.reason.contains("allow list") && pending.reason.contains("swtpm-localca"), "{pending:?}");
    }
    let list = manager.ask(&["device", "list", "--state", "pending"]);
    let id = list[0]["id"].as_str().unwrap();
    assert_eq!(
        (&list[0]["serial"], &list[0]["label"], list.as_array().unwrap().len()),
        (&json!("SN-0001"), &json!("batch-7"), 1)
    );

    manager.tell(&["device", "approve", id]);
    let enrolled: Enrolled = device.enrol(&manager).await.json(200);
    let identity = device.identity(&enrolled);
    assert!(Client::with(&manager, &identity).get(CONFIGURATION_PATH).await.status.is_success());
    assert!(!revocation_list(&manager).await.contains(&certificate_serial(&identity)));

    manager.tell(&["device", "revoke", "SN-0001", "--reason", "key-compromise"]);
    let list = revocation_list(&manager).await;
    assert!(list.contains(&certificate_serial(&identity)) && list.contains("Key Compromise"), "{list}");
    let problem = Client::with(&manager, &identity).get(CONFIGURATION_PATH).await.problem(403);
    assert!(problem.contains("revoked"), "{problem}");
    // The TPM is in no list, and would have to wait, if it were not revoked.
    let problem = device.enrol(&manager).await.problem(403);
    assert!(problem.contains("revoked") && problem.contains("device approve"), "{problem}");
    manager.tell(&["ek-ca", "add", emulator.root().to_str().unwrap()]);
    manager.tell(&["ek-ca", "add", emulator.issuer().to_str().unwrap()]);
    device.enrol(&manager).await.problem(403);

    manager.tell(&["device", "approve", "SN-0001"]);
    let enrolled: Enrolled = device.enrol(&manager).await.json(200);
    assert_eq!(enrolled.configuration.device_id.as_str(), id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_allow_list_takes_keys_as_administrators_have_them() {
    let emulator = Emulator::start();
    let device = Device::new(&emulator, "SN-0001");
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    std::fs::write(file("ek.tpm2b"), &device.endorsement.public).unwrap();
    let certificate = device.endorsement.certificate.clone().unwrap();
    std::fs::write(file("ek.pem"), pem::encode(&pem::Pem::new("CERTIFICATE", certificate))).unwrap();
    let public = Command::new("openssl").args(["x509", "-pubkey", "-noout", "-in", &file("ek.pem")]).output().unwrap();
    std::fs::write(file("ek.pub"), public.stdout).unwrap();

    let manager = Manager::start();
    device.enrol(&manager).await.json::<Pending>(202);
    let shown = manager.ask(&["device", "show", "SN-0001"]);
    let hash = shown["device"]["ek_hash"].as_str().unwrap();
    for key in [&file("ek.tpm2b"), &file("ek.pem"), &file("ek.pub"), hash] {
        let allowed = manager.ask(&["ek", "allow", key]);
        assert!(allowed["allowed"].as_array().unwrap().contains(&json!(hash)), "{key}: {allowed}");
        device.enrol(&manager).await.json::<Enrolled>(200);
        // Back to where it was, but for the list.
        manager.tell(&["ek", "remove", hash]);
        manager.tell(&["device", "revoke", "SN-0001"]);
        device.enrol(&manager).await.problem(403);
        manager.tell(&["device", "approve", "SN-0001"]);
    }
    for wrong in ["0123", "/dev/null", &file("nowhere")] {
        assert!(!manager.run(&["ek", "allow", wrong]).status.success(), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_looks_at_the_serial_number() {
    let (manager, one, other) = (Manager::start(), Emulator::start(), Emulator::start());
    for emulator in [&one, &other] {
        manager.tell(&["ek-ca", "add", emulator.issuer().to_str().unwrap(), "--serial", "SN-*", "--serial", "X?"]);
    }
    let pending: Pending = Device::new(&one, "YY").enrol(&manager).await.json(202);
    assert!(pending.reason.contains("serial number YY"), "{pending:?}");
    let device = Device::new(&one, "SN-0001");
    device.enrol(&manager).await.json::<Enrolled>(200);

    let impostor = Device::new(&other, "SN-0001");
    let pending: Pending = impostor.enrol(&manager).await.json(202);
    let holder = manager.ask(&["device", "list", "--state", "approved"])[0]["id"].as_str().unwrap().to_owned();
    assert!(pending.reason.contains("SN-0001") && pending.reason.contains(&holder), "{pending:?}");
    // The one that was there first is not disturbed.
    device.enrol(&manager).await.json::<Enrolled>(200);
    // Two have the serial number now: the command asks which.
    let output = manager.run(&["device", "approve", "SN-0001"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("by its id"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_challenge_is_answered_once_and_rightly_or_not_at_all() {
    let (manager, emulator) = (Manager::start(), Emulator::start());
    let device = Device::new(&emulator, "SN-0001");
    let client = Client::anonymous(&manager);
    let introduction = serde_json::to_vec(&device.introduction()).unwrap();

    let challenge: Challenge = client.post(ENROL_PATH, introduction.clone()).await.json(200);
    let (path, body) = device.answer(&challenge);
    client.post(&path, body.clone()).await.json::<Pending>(202);
    assert!(client.post(&path, body).await.problem(404).contains("session"));

    let challenge: Challenge = client.post(ENROL_PATH, introduction).await.json(200);
    let (path, body) = device.answer(&challenge);
    let problem = client.post(&path, "{\"secret\": \"AAAA\"}").await.problem(403);
    assert!(problem.contains("secret"), "{problem}");
    assert!(client.post(&path, body).await.problem(404).contains("session"));
    let unknown = format!("{ENROL_PATH}/0123456789abcdef");
    assert!(client.post(&unknown, "{\"secret\": \"AAAA\"}").await.problem(404).contains("session"));
    assert!(client.post(&unknown, "{\"secret\": 1}").await.problem(400).contains("secret"));

    // Nothing is kept of a device that has not proved its TPM.
    let other = Device::new(&emulator, "SN-0002");
    let challenge: Challenge =
        client.post(ENROL_PATH, serde_json::to_vec(&other.introduction()).unwrap()).await.json(200);
    client.post(&format!("{ENROL_PATH}/{}", challenge.session), "{\"secret\": \"AAAA\"}").await.problem(403);
    let list = manager.ask(&["device", "list"]);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["serial"]), (1, &json!("SN-0001")));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_damaged_field_is_named() {
    use base64::Engine;
    let encode = |bytes: &[u8]| json!(base64::engine::general_purpose::STANDARD.encode(bytes));
    let (manager, emulator, other) = (Manager::start(), Emulator::start(), Emulator::start());
    let device = Device::new(&emulator, "SN-0001");
    let stranger = Device::new(&other, "SN-0001");
    let good = serde_json::to_value(device.introduction()).unwrap();
    let foreign = serde_json::to_value(stranger.introduction()).unwrap();
    let client = Client::anonymous(&manager);
    client.post(ENROL_PATH, good.to_string()).await.json::<Challenge>(200);

    let cut = |bytes: &[u8]| encode(&bytes[..bytes.len() - 1]);
    let introduction = device.introduction();
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 1;
        encode(&bytes)
    };
    let ek_certificate = introduction.ek_certificate.clone().unwrap().0;
    let damages: Vec<(&str, Value)> = vec![
        ("version", json!(2)),
        ("version", Value::Null),
        ("serial", json!("")),
        ("serial", json!("../x")),
        ("serial", json!(1)),
        ("hostname", json!("a b")),
        ("hostname", json!("")),
        ("label", json!("a\nb")),
        ("ek_public", json!("%")),
        ("ek_public", json!("")),
        ("ek_public", cut(&introduction.ek_public.0)),
        // An attribute: restricted.
        ("ek_public", flipped(&introduction.ek_public.0, 7)),
        // A signing key is no endorsement key.
        ("ek_public", good["key_public"].clone()),
        ("ek_certificate", json!("AAAA")),
        ("ek_certificate", encode(&ek_certificate[..ek_certificate.len() / 2])),
        ("ek_certificate", encode(&[0; 8 * 1024 + 1])),
        ("ek_certificate", foreign["ek_certificate"].clone()),
        ("key_public", json!("AAAA")),
        ("key_public", cut(&introduction.key_public.0)),
        // An endorsement key does not sign.
        ("key_public", good["ek_public"].clone()),
        ("csr", json!("AAAA")),
        ("csr", cut(&introduction.csr.0)),
        ("csr", flipped(&introduction.csr.0, introduction.csr.0.len() - 1)),
        // Of a key in another TPM.
        ("csr", foreign["csr"].clone()),
        ("surplus", json!("x")),
    ];
    for (field, value) in damages {
        let mut damaged = good.clone();
        damaged[field] = value.clone();
        let problem = client.post(ENROL_PATH, damaged.to_string()).await.problem(400);
        assert!(problem.starts_with(&format!("{field}: ")), "{field} = {value}: {problem}");
    }
    for field in ["version", "serial", "hostname", "ek_public", "key_public", "csr"] {
        let mut damaged = good.clone();
        damaged.as_object_mut().unwrap().remove(field);
        let problem = client.post(ENROL_PATH, damaged.to_string()).await.problem(400);
        assert!(problem.starts_with(&format!("{field}: ")), "{field}: {problem}");
    }
    let text = good.to_string();
    for body in ["", "{", "[]", "null", "\u{0}", &text[..text.len() / 2]] {
        client.post(ENROL_PATH, body).await.problem(400);
    }
    client.post(ENROL_PATH, good.to_string()).await.json::<Challenge>(200);
}

/// The revocation list in openssl's words, after openssl has checked its signature.
pub(crate) async fn revocation_list(manager: &Manager) -> String {
    let answer = Client::anonymous(manager).get(CRL_PATH).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "application/pkix-crl"));
    let mut openssl = Command::new("openssl")
        .args(["crl", "-inform", "DER", "-noout", "-text", "-CAfile"])
        .arg(manager.state("issuing.pem"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    openssl.stdin.take().unwrap().write_all(&answer.body).unwrap();
    let output = openssl.wait_with_output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("verify OK"), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}
