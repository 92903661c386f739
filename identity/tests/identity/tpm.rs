//! The TPM's part, against a real TPM 2.0 (swtpm).

use std::{
    process::Command,
    time::{Duration, Instant},
};

use crate::emulator::Emulator;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use m2m_identity::{
    DeviceKey, KeyError, PemKey, certificate_request, chain, credential,
    tpm::{Tpm, TpmError, TpmKey},
};

pub(crate) fn assert_signs(key: &dyn DeviceKey, message: &[u8]) {
    let signature = key.sign(message).unwrap();
    ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.spki_der()).unwrap().verify_sig(message, &signature).unwrap();
}

pub(crate) fn activate(tpm: &Tpm, key: &TpmKey) {
    let ek = tpm.endorsement().unwrap();
    let made = credential::make(&ek.public, key.public_area()).unwrap();
    let secret = tpm.activate_credential(key, &made.credential_blob, &made.encrypted_secret).unwrap();
    assert_eq!(*secret, *made.secret);
}

#[test]
fn a_key_signs_and_is_loaded_again_after_a_power_cut() {
    let mut emulator = Emulator::start();
    let tpm = emulator.open();
    let key = tpm.create_signing_key().unwrap();
    assert_signs(&key, b"before");
    assert_eq!(credential::key_spki(key.public_area()).unwrap(), key.spki_der());
    let pem = key.to_pem();
    drop((key, tpm));
    emulator.power_cycle();

    let tpm = emulator.open();
    let loaded = tpm.load_signing_key(&pem).unwrap();
    assert_signs(&loaded, b"after");
    assert_eq!(loaded.to_pem(), pem);
    assert_signs(&*chain::private_key(&pem, Some(&tpm)).unwrap(), b"by label");
    assert!(matches!(chain::private_key(&pem, None), Err(KeyError::NeedsTpm)));
}

#[test]
fn another_tpm_refuses_the_key() {
    let (first, second) = (Emulator::start(), Emulator::start());
    let pem = first.open().create_signing_key().unwrap().to_pem();
    let error = second.open().load_signing_key(&pem).unwrap_err();
    assert!(matches!(error, TpmError::KeyOfAnotherTpm), "{error:?}");
    assert!(error.to_string().contains("the key does not belong to this TPM"));
}

#[test]
fn the_key_file_is_what_openssl_takes_for_a_tpm_key() {
    let emulator = Emulator::start();
    let pem = emulator.open().create_signing_key().unwrap().to_pem();
    assert!(pem.starts_with("-----BEGIN TSS2 PRIVATE KEY-----\n"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key.pem");
    std::fs::write(&file, pem).unwrap();
    let output =
        Command::new("openssl").args(["asn1parse", "-in"]).arg(file).output().expect("openssl is needed by this test");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let fields: Vec<_> = text.lines().map(|line| line.split_once(": ").unwrap().1.trim()).collect();
    assert!(fields[0].starts_with("SEQUENCE"), "{text}");
    assert!(fields[1].ends_with(":2.23.133.10.1.3"), "{text}");
    assert!(fields[2].starts_with("cont [ 0 ]"), "{text}");
    assert!(fields[3].starts_with("BOOLEAN"), "{text}");
    assert!(fields[3].ends_with(":255"), "{text}");
    assert!(fields[4].ends_with(":40000001"), "{text}");
    assert!(fields[5].starts_with("OCTET STRING"), "{text}");
    assert!(fields[6].starts_with("OCTET STRING"), "{text}");
    assert_eq!(fields.len(), 7, "{text}");
}

#[test]
fn a_credential_for_another_key_or_another_tpm_is_refused() {
    let (emulator, other) = (Emulator::start(), Emulator::start());
    let tpm = emulator.open();
    let (key, another) = (tpm.create_signing_key().unwrap(), tpm.create_signing_key().unwrap());
    assert_ne!(key.name(), another.name());
    let ek = tpm.endorsement().unwrap();
    let made = credential::make(&ek.public, another.public_area()).unwrap();
    let wrong_name = tpm.activate_credential(&key, &made.credential_blob, &made.encrypted_secret);
    assert!(matches!(wrong_name, Err(TpmError::Credential(_))), "{wrong_name:?}");
    let ek = other.open().endorsement().unwrap();
    let made = credential::make(&ek.public, key.public_area()).unwrap();
    let wrong_tpm = tpm.activate_credential(&key, &made.credential_blob, &made.encrypted_secret);
    assert!(matches!(wrong_tpm, Err(TpmError::Credential(_))), "{wrong_tpm:?}");
    let malformed = tpm.activate_credential(&key, &[0, 9, 1], &[]);
    assert!(matches!(malformed, Err(TpmError::Credential(_))));
    activate(&tpm, &key);
}

#[test]
fn nothing_stays_in_the_tpm_over_fifty_rounds() {
    let emulator = Emulator::start();
    let tpm = emulator.open();
    for round in 0..50u8 {
        let key = tpm.create_signing_key().unwrap();
        let key = tpm.load_signing_key(&key.to_pem()).unwrap();
        assert_signs(&key, &[round]);
        activate(&tpm, &key);
    }
}

#[test]
fn a_request_is_signed_by_the_tpm_and_names_the_device() {
    let emulator = Emulator::start();
    let key = emulator.open().create_signing_key().unwrap();
    let request = certificate_request(&key, "dev-0123456789abcdef").unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("request.der");
    std::fs::write(&file, &request).unwrap();
    let output = Command::new("openssl")
        .args(["req", "-inform", "DER", "-noout", "-verify", "-subject", "-in"])
        .arg(&file)
        .output()
        .expect("openssl is needed by this test");
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("CN = dev-0123456789abcdef"), "{text}");
    assert!(request.windows(key.spki_der().len()).any(|window| window == key.spki_der()));
    let software = PemKey::generate().unwrap();
    assert!(certificate_request(&software, "x").is_ok());
}

#[test]
fn a_tpm_that_hangs_is_given_up_and_used_again_when_it_answers() {
    let emulator = Emulator::start();
    let tpm = Tpm::open_with_time_limit(&emulator.tcti(), Duration::from_millis(1500)).unwrap();
    let key = tpm.create_signing_key().unwrap();
    emulator.signal("-STOP");
    let error = key.sign(b"hanging").unwrap_err();
    emulator.signal("-CONT");
    assert!(matches!(error, KeyError::Tpm(TpmError::Timeout { .. })), "{error:?}");
    let deadline = Instant::now() + Duration::from_secs(30);
    while let Err(error) = key.sign(b"again") {
        assert!(Instant::now() < deadline, "{error:?}");
    }
    assert_signs(&key, b"again");
}

#[test]
fn a_tpm_that_hangs_from_the_start_is_given_up_too() {
    let emulator = Emulator::start();
    emulator.signal("-STOP");
    let error = Tpm::open_with_time_limit(&emulator.tcti(), Duration::from_millis(200)).unwrap_err();
    emulator.signal("-CONT");
    assert!(matches!(error, TpmError::Timeout { operation: "open", .. }), "{error:?}");
    assert!(emulator.open().create_signing_key().is_ok());
}

#[test]
fn no_tpm_is_an_error_that_names_it() {
    assert!(matches!(Tpm::open("usb:1"), Err(TpmError::Tcti(name)) if name == "usb:1"));
    let error = Tpm::open("device:/nonexistent/tpmrm0").unwrap_err();
    assert!(matches!(error, TpmError::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("/nonexistent/tpmrm0"));
}
