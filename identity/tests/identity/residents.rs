//! A TPM in which others have left something: persistent keys, objects, sessions.

use crate::{
    emulator::Emulator,
    tpm::{activate, assert_signs},
};

const SRK: &str = "0x81000001";
const ATTRIBUTES: &str = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";

#[test]
fn the_persistent_storage_root_key_serves_keys_made_before_it_was_persisted() {
    let emulator = Emulator::start();
    let tpm = emulator.open();
    let key = tpm.create_signing_key().unwrap();
    let pem = key.to_pem();
    drop((key, tpm));

    persist(&emulator, "ecc", ATTRIBUTES);
    let tpm = emulator.open();
    let key = tpm.load_signing_key(&pem).unwrap();
    assert_signs(&key, b"under the persistent key");
    activate(&tpm, &key);
    let younger = tpm.create_signing_key().unwrap().to_pem();
    drop((key, tpm));

    emulator.tool("tpm2_evictcontrol", &["-C", "o", "-c", SRK]);
    let tpm = emulator.open();
    assert_signs(&tpm.load_signing_key(&younger).unwrap(), b"without it");
}

#[test]
fn a_foreign_key_in_the_place_of_the_storage_root_key_does_not_matter() {
    for (algorithm, attributes) in [("rsa", ATTRIBUTES), ("ecc", &ATTRIBUTES.replace("noda|", ""))] {
        let emulator = Emulator::start();
        let pem = emulator.open().create_signing_key().unwrap().to_pem();
        persist(&emulator, algorithm, attributes);
        let tpm = emulator.open();
        let key = tpm.load_signing_key(&pem).unwrap();
        assert_signs(&key, b"beside a foreign key");
        activate(&tpm, &key);
    }
}

#[test]
fn the_endorsement_key_is_the_same_whether_persistent_or_derived() {
    const EK: &str = "0x81010001";
    let emulator = Emulator::start();
    let persistent = emulator.open().endorsement().unwrap();
    emulator.tool("tpm2_evictcontrol", &["-C", "o", "-c", EK]);
    let tpm = emulator.open();
    assert_eq!(tpm.endorsement().unwrap(), persistent);
    activate(&tpm, &tpm.create_signing_key().unwrap());
    drop(tpm);

    // Another key in its place, such as one without the policy, is not taken for it.
    emulator.tool("tpm2_createprimary", &["-C", "e", "-G", "rsa", "-c", "primary"]);
    emulator.tool("tpm2_evictcontrol", &["-C", "o", "-c", "primary", EK]);
    let tpm = emulator.open();
    assert_eq!(tpm.endorsement().unwrap(), persistent);
    activate(&tpm, &tpm.create_signing_key().unwrap());
}

#[test]
fn what_a_killed_process_left_in_the_tpm_is_cleared_away() {
    let emulator = Emulator::start();
    // The tools leave their object in the TPM; it has room for three.
    for _ in 0..3 {
        emulator.tool("tpm2_createprimary", &["-C", "o", "-G", "ecc"]);
    }
    let tpm = emulator.open();
    let key = tpm.create_signing_key().unwrap();
    activate(&tpm, &key);
    assert_signs(&key, b"in a crowded TPM");
}

/// Makes a primary key and keeps it where the storage root key is expected.
fn persist(emulator: &Emulator, algorithm: &str, attributes: &str) {
    let arguments = ["-C", "o", "-G", algorithm, "-c", "primary", "-a", attributes];
    emulator.tool("tpm2_createprimary", &arguments);
    let arguments = ["-C", "o", "-c", "primary", SRK];
    emulator.tool("tpm2_evictcontrol", &arguments);
    emulator.tool("tpm2_flushcontext", &["-t"]);
}
