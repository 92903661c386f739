//! The check of endorsement key certificates, as TPM makers issue them.

use m2m_identity::endorsement::{EkTrust, EndorsementError};
use rcgen::{CertificateParams, CustomExtension, ExtendedKeyUsagePurpose};
use rustls_pki_types::UnixTime;

use crate::{
    emulator::Emulator,
    pki::{Pki, leaf},
    tpm::activate,
};

#[test]
fn the_makers_certificate_is_verified_and_nothing_else_is_believed() {
    let emulator = Emulator::start();
    let tpm = emulator.open();
    let ek = tpm.endorsement().unwrap();
    let certificate = ek.certificate.as_deref().unwrap();
    let now = UnixTime::now();

    let mut by_root = EkTrust::new();
    by_root.add(&emulator.root()).unwrap();
    let endorser = by_root.verify(certificate, &[emulator.issuer()], &ek.public, now).unwrap();
    assert_eq!(endorser.manufacturer, "id:00001014");
    assert_eq!(endorser.model, "swtpm");
    let mut by_issuer = EkTrust::new();
    by_issuer.add(&emulator.issuer()).unwrap();
    assert_eq!(by_issuer.verify(certificate, &[], &ek.public, now).unwrap(), endorser);

    let nobody = EkTrust::new().verify(certificate, &[emulator.issuer()], &ek.public, now);
    assert!(matches!(nobody, Err(EndorsementError::UnknownAuthority { .. })));
    let other = Emulator::start();
    let mut stranger = EkTrust::new();
    stranger.add(&other.root()).unwrap();
    // The CAs of both emulators have the same name: the signature tells them apart.
    let unknown = stranger.verify(certificate, &[emulator.issuer()], &ek.public, now);
    assert!(unknown.is_err(), "{unknown:?}");
    let another_key = by_issuer.verify(certificate, &[], &other.open().endorsement().unwrap().public, now);
    assert!(matches!(another_key, Err(EndorsementError::OtherKey)));
}

#[test]
fn an_ecc_endorsement_key_with_a_certificate_is_preferred_and_works() {
    let emulator = Emulator::start_uncertified();
    let tpm = emulator.open();
    let before = tpm.endorsement().unwrap();
    assert_eq!(before.certificate, None);
    activate(&tpm, &tpm.create_signing_key().unwrap());
    drop(tpm);

    let maker = Pki::new("Maker");
    let chain = maker.certify(&profile(), &p256_spki(&before.public));
    // Some TPMs have larger indices than certificates.
    let padded = [&chain[0][..], &[0xff; 40]].concat();
    let file = emulator.directory().join("certificate");
    std::fs::write(&file, &padded).unwrap();
    let size = format!("{}", padded.len());
    let attributes = "ownerwrite|ownerread|authread|no_da";
    let index = "0x01c0000a";
    emulator.tool("tpm2_nvdefine", &[index, "-C", "o", "-s", &size, "-a", attributes]);
    emulator.tool("tpm2_nvwrite", &[index, "-C", "o", "-i", "certificate"]);

    let tpm = emulator.open();
    let ek = tpm.endorsement().unwrap();
    assert_eq!(ek.public, before.public);
    let certificate = ek.certificate.unwrap();
    assert_eq!(certificate, chain[0].as_ref());
    let mut trust = EkTrust::new();
    trust.add(&maker.root()).unwrap();
    let now = UnixTime::now();
    for certificate in [&certificate, &padded] {
        let endorser = trust.verify(certificate, &chain[1..], &ek.public, now).unwrap();
        assert_eq!(endorser.manufacturer, "id:4D324D00");
        assert_eq!(endorser.model, "example");
        assert_eq!(endorser.version, "id:00010002");
        assert_eq!(endorser.certificate_serial, "05");
        assert!(endorser.issuer.contains("Maker Issuing CA"));
    }
    activate(&tpm, &tpm.create_signing_key().unwrap());
}

#[test]
fn a_certificate_that_cannot_be_read_is_as_good_as_none() {
    let emulator = Emulator::start_uncertified();
    let attributes = "ownerwrite|ownerread|authread|no_da";
    // Defined, but never written.
    let arguments = ["0x01c0000a", "-C", "o", "-s", "64", "-a", attributes];
    emulator.tool("tpm2_nvdefine", &arguments);
    let tpm = emulator.open();
    assert_eq!(tpm.endorsement().unwrap().certificate, None);
    activate(&tpm, &tpm.create_signing_key().unwrap());
}

#[test]
fn other_certificates_of_the_same_ca_are_not_accepted() {
    let emulator = Emulator::start_uncertified();
    let ek = emulator.open().endorsement().unwrap();
    let spki = p256_spki(&ek.public);
    let maker = Pki::new("Maker");
    let mut trust = EkTrust::new();
    trust.add(&maker.root()).unwrap();
    let verify = |params: &CertificateParams| {
        let chain = maker.certify(params, &spki);
        trust.verify(&chain[0], &chain[1..], &ek.public, UnixTime::now())
    };
    verify(&profile()).unwrap();

    let mut for_servers = profile();
    for_servers.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let error = verify(&for_servers).unwrap_err();
    assert!(matches!(error, EndorsementError::Chain(_)), "{error:?}");
    let mut expired = profile();
    expired.not_after = rcgen::date_time_ymd(2021, 1, 1);
    let error = verify(&expired).unwrap_err();
    assert!(matches!(error, EndorsementError::Chain(_)), "{error:?}");

    let leaf = maker.certify(&profile(), &spki).remove(0);
    assert!(matches!(trust.add(&leaf), Err(EndorsementError::Authority(_))));
    assert!(matches!(trust.verify(b"", &[], &ek.public, UnixTime::now()), Err(EndorsementError::Certificate(_))));
}

#[test]
fn no_bit_of_a_certificate_may_be_changed() {
    let emulator = Emulator::start_uncertified();
    let ek = emulator.open().endorsement().unwrap();
    let maker = Pki::new("Maker");
    let mut trust = EkTrust::new();
    trust.add(&maker.root()).unwrap();
    let chain = maker.certify(&profile(), &p256_spki(&ek.public));
    let verify = |certificate: &[u8]| trust.verify(certificate, &chain[1..], &ek.public, UnixTime::now());
    verify(&chain[0]).unwrap();
    for index in 0..chain[0].len() {
        for bit in 0..8 {
            let mut altered = chain[0].to_vec();
            altered[index] ^= 1 << bit;
            assert!(verify(&altered).is_err(), "bit {bit} of byte {index}");
        }
    }
    for length in 0..chain[0].len() {
        assert!(verify(&chain[0][..length]).is_err(), "cut to {length}");
    }
}

/// A certificate as TCG's profile has it: empty subject, and a critical subject alternative name that is a
/// directoryName with the TPM's maker, model and version.
fn profile() -> CertificateParams {
    let usage = ExtendedKeyUsagePurpose::Other(vec![2, 23, 133, 8, 1]);
    let mut params = leaf("unused", 5, usage);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyAgreement];
    let attributes = [(1, &b"id:4D324D00"[..]), (2, b"example"), (3, b"id:00010002")].map(|(number, value)| {
        let oid = tlv(0x06, &[0x67, 0x81, 0x05, 0x02, number]);
        tlv(0x31, &tlv(0x30, &[oid, tlv(0x0c, value)].concat()))
    });
    let name = tlv(0xa4, &tlv(0x30, &attributes.concat()));
    let mut alternative = CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(0x30, &name));
    alternative.set_criticality(true);
    params.custom_extensions = vec![alternative];
    params
}

/// DER of fewer than 128 bytes.
fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).unwrap();
    assert!(length < 0x80);
    [&[tag, length], content].concat()
}

/// The SPKI of a P-256 public area: its last field is the point.
fn p256_spki(public: &[u8]) -> Vec<u8> {
    let (_, point) = public.split_at(public.len() - 68);
    let (x, y) = point.split_at(34);
    let point = [&[0, 4], &x[2..], &y[2..]].concat();
    let algorithm = [
        tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01]),
        tlv(0x06, &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]),
    ];
    tlv(0x30, &[tlv(0x30, &algorithm.concat()), tlv(0x03, &point)].concat())
}
