//! Software TPMs of the lab.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
};

use m2m_lab::{Lab, LabOptions, Swtpm, TpmAttachment};

/// The endorsement key's public area: TPM2_ReadPublic of the handle where `swtpm_setup` persists it.
fn endorsement_key(lab: &Lab, tpm: &Swtpm) -> Vec<u8> {
    let tcti = tpm.tcti();
    let socket = lab.outside(tcti.strip_prefix("swtpm:path=").unwrap());
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&[0x80, 1, 0, 0, 0, 14, 0, 0, 1, 0x73, 0x81, 1, 0, 1]).unwrap();
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer).unwrap();
    assert_eq!(answer[6..10], [0; 4], "response code");
    answer.truncate(length);
    answer
}

#[test]
fn a_tpm_keeps_its_key_over_power_cycles_and_no_two_have_the_same() {
    let lab = Lab::start(LabOptions::default()).unwrap();
    let (mut one, mut other) = (lab.tpm("one").unwrap(), lab.tpm("other").unwrap());
    for tpm in [&mut one, &mut other] {
        tpm.start(TpmAttachment::Process).unwrap();
    }
    let key = endorsement_key(&lab, &one);
    assert_ne!(key, endorsement_key(&lab, &other));

    one.stop();
    one.start(TpmAttachment::Process).unwrap();
    assert_eq!(key, endorsement_key(&lab, &one));
}

#[test]
fn the_maker_of_the_tpms_has_a_ca_once_there_is_one() {
    let lab = Lab::start(LabOptions::default()).unwrap();
    assert!(lab.ek_ca_file().is_err());
    let _tpm = lab.tpm("one").unwrap();
    let pem = fs::read_to_string(lab.outside(lab.ek_ca_file().unwrap())).unwrap();
    assert_eq!(pem.matches("-----BEGIN CERTIFICATE-----").count(), 2);
}
