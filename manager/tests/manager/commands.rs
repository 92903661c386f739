//! What administrators do at the command line.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::{Duration, Instant};

use m2m_identity::{PemKey, certificate_request};

use crate::client::Client;
use crate::manager::{Manager, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_ca_and_certificate_and_stops_in_order() {
    let mut manager = Manager::start();
    let files = ["root.pem", "issuing.pem", "server.pem"];
    let before = files.map(|file| std::fs::read(manager.state(file)).unwrap());
    let list = crate::enrolment::revocation_list(&manager).await;
    // As a power cut does, and then in order.
    manager.restart("KILL");
    manager.restart("TERM");
    assert_eq!(files.map(|file| std::fs::read(manager.state(file)).unwrap()), before);
    assert_eq!(crate::enrolment::revocation_list(&manager).await, list);
    assert_eq!(Client::anonymous(&manager).get("/healthz").await.text(), "ok\n");
    for file in ["root.key", "issuing.key", "server.pem"] {
        assert_eq!(manager.state(file).metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file}");
    }
    assert_eq!(manager.state("").metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert!(manager.stop("TERM"));
}

#[test]
fn a_gateway_gets_key_and_certificate_before_the_first_start() {
    let directory = tempfile::tempdir().unwrap();
    write_config(&directory, "");
    let out = |name: &str| directory.path().join(name).display().to_string();
    let names = ["gateway", "issue", "--name", "gateway.example", "--name", "2001:db8::10"];
    let output = run(directory.path(), &[&names[..], &["--out", &out("gw")]].concat());
    assert!(output.status.success(), "{output:?}");
    verify(&directory, &["-verify_hostname", "gateway.example"], "gw");
    verify(&directory, &["-verify_ip", "2001:db8::10"], "gw");
    let key = std::fs::read_to_string(directory.path().join("gw/key.pem")).unwrap();
    PemKey::from_pem(&key).unwrap();
    assert_eq!(directory.path().join("gw/key.pem").metadata().unwrap().permissions().mode() & 0o777, 0o600);

    let csr = certificate_request(&PemKey::generate().unwrap(), "anything").unwrap();
    for (name, content) in [("csr.der", csr.clone()), ("csr.pem", pem_of(&csr))] {
        std::fs::write(directory.path().join(name), content).unwrap();
        let output = run(directory.path(), &[&names[..], &["--out", &out("own"), "--csr", &out(name)]].concat());
        assert!(output.status.success(), "{output:?}");
        verify(&directory, &["-verify_hostname", "gateway.example"], "own");
    }
    assert!(!directory.path().join("own/key.pem").exists());
    for wrong in ["root", "a b", "a..b"].map(|name| ["gateway", "issue", "--name", name, "--out"]) {
        let output = run(directory.path(), &[&wrong[..], &[&out("wrong")]].concat());
        assert_eq!(output.status.success(), wrong[3] == "root", "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_list_and_own_certificate_are_renewed_in_time() {
    let manager = Manager::start_with("lifetimes = { crl = \"6s\", server = \"12s\" }");
    let started = Instant::now();
    let own = || std::fs::read(manager.state("server.pem")).unwrap();
    let (first_list, first_own) = (crate::enrolment::revocation_list(&manager).await, own());
    // Due when a third is left, and looked at every second.
    let deadline = started + Duration::from_secs(11);
    while crate::enrolment::revocation_list(&manager).await == first_list || own() == first_own {
        assert!(Instant::now() < deadline, "they are not renewed in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // What is served is valid all the time, past the end of the first certificate.
    while Instant::now() < started + Duration::from_secs(14) {
        assert!(Client::anonymous(&manager).get("/healthz").await.status.is_success());
    }
}

#[test]
fn many_may_be_the_first() {
    let directory = tempfile::tempdir().unwrap();
    write_config(&directory, "");
    let starts: Vec<_> = (0..4)
        .map(|_| {
            let path = directory.path().to_owned();
            std::thread::spawn(move || run(&path, &["ca", "show", "--pem"]))
        })
        .collect();
    let outputs: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    for output in &outputs {
        assert!(output.status.success(), "{output:?}");
        assert_eq!(output.stdout, outputs[0].stdout);
    }
}

#[test]
fn a_machine_without_tpm_gets_a_certificate_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    write_config(&directory, "");
    let path = directory.path().join("csr.pem");
    std::fs::write(&path, pem_of(&certificate_request(&PemKey::generate().unwrap(), "x").unwrap())).unwrap();
    let output = run(directory.path(), &["device", "issue", "SN-0009", "--csr", path.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).matches("BEGIN CERTIFICATE").count(), 2);
    let table = run(directory.path(), &["device", "list"]);
    let table = String::from_utf8(table.stdout).unwrap();
    assert!(table.starts_with("ID ") && table.contains("SN-0009") && table.contains("approved"), "{table}");
}

#[test]
fn mistakes_are_answered_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    write_config(&directory, "");
    let leaf = directory.path().join("leaf.pem");
    run(directory.path(), &["gateway", "issue", "--name", "g.example", "--out", directory.path().to_str().unwrap()]);
    std::fs::rename(directory.path().join("chain.pem"), &leaf).unwrap();
    for (arguments, hint) in [
        (&["device", "approve", "SN-1"][..], "device list"),
        (&["device", "show", "dev-1"], "device list"),
        (&["device", "token", "../x"], "expected 1 to 64"),
        (&["device", "token", "SN-1", "--valid", "soon"], "\"12h\""),
        (&["ek-ca", "add", "nowhere.pem"], "cannot be read"),
        (&["ek-ca", "add", leaf.to_str().unwrap()], "CA"),
        (&["ek", "remove", "00"], "ek list"),
        (&["gateway", "revoke", "00"], "serial number"),
        (&["device", "issue", "SN-1", "--csr", "nowhere"], "cannot be read"),
    ] {
        let output = run(directory.path(), arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(hint), "{arguments:?}: {said}");
    }
    write_config(&directory, "surplus = 1");
    let output = run(directory.path(), &["device", "list"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("manager.toml:5") && said.contains("surplus"), "{said}");
}

fn write_config(directory: &tempfile::TempDir, extra: &str) {
    let config = format!(
        "version = 1\nlisten = [\"127.0.0.1:0\"]\nstate_dir = {:?}\nnames = [\"manager.example\"]\n{extra}\n\
         [[device_defaults.gateway]]\norigin = \"https://gateway.example\"\n",
        directory.path().join("state")
    );
    std::fs::write(directory.path().join("manager.toml"), config).unwrap();
}

/// openssl builds the chain from the trust anchor and looks for the purpose and the name.
fn verify(directory: &tempfile::TempDir, name: &[&str], of: &str) {
    let chain = directory.path().join(of).join("chain.pem");
    let output = Command::new("openssl")
        .args(["verify", "-x509_strict", "-purpose", "sslserver"])
        .args(name)
        .arg("-CAfile")
        .arg(directory.path().join(of).join("root.pem"))
        .arg("-untrusted")
        .arg(&chain)
        .arg(&chain)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn pem_of(csr: &[u8]) -> Vec<u8> {
    pem::encode(&pem::Pem::new("CERTIFICATE REQUEST", csr)).into_bytes()
}
