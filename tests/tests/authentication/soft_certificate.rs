//! A key in software: PEM, and PKCS #12 with a PIN, as OpenSSL makes it now and as it made it once.

use crate::stage::Stage;

#[test]
fn a_key_in_files_opens_the_tunnel() {
    let stage = Stage::set();
    let (pem, pkcs12) = (stage.documented("File"), stage.documented("File with a PIN"));
    stage.prepare(
        "printf 'wrong\\n' > wrong.pin
        openssl pkcs12 -export -inkey device.key -in device.pem -certfile ca.pem -passout file:device.pin \\
            -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1 -out old.p12",
    );
    stage.connects("pem", &pem);
    stage.connects("pkcs12", &pkcs12);
    stage.connects("pkcs12-old", &pkcs12.replace("device.p12", "old.p12"));
    stage.is_refused("wrong-key", &pem.replace("device.key", "gateway.key"), "device.pem");
    stage.is_refused("wrong-pin", &pkcs12.replace("device.pin", "wrong.pin"), "device.p12: the PIN is wrong");
    stage.is_refused("no-pin", &pkcs12.replace("device.pin", "no.pin"), "identity.pkcs12: pin: ");
    stage.is_refused("no-pkcs12", &pkcs12.replace("device.p12", "device.key"), "no usable PKCS #12 file");
}
