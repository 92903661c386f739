//! A key in software: PEM, and PKCS #12 with a PIN, as OpenSSL makes it now and as it made it once.

use crate::stage::Stage;

const PIN: &str = "4711-äöü";

#[test]
fn a_key_in_files_opens_the_tunnel() {
    let stage = Stage::set();
    let place = stage.place();
    stage.prepare(&format!(
        "printf '{PIN}\\n' > pin; printf 'wrong\\n' > wrong-pin
        export=\"openssl pkcs12 -export -inkey device.key -in device.pem -certfile ca.pem -passout file:pin\"
        $export -out now.p12
        $export -keypbe PBE-SHA1-3DES -certpbe PBE-SHA1-3DES -macalg sha1 -out once.p12"
    ));
    let pem = format!("[identity.pem]\ncertificate = \"{place}/device.pem\"\nkey = \"{place}/device.key\"");
    let pkcs12 = |file: &str, pin: &str| {
        format!("[identity.pkcs12]\nfile = \"{place}/{file}\"\npin = {{ file = \"{place}/{pin}\" }}")
    };
    stage.connects("pem", &pem);
    stage.connects("pkcs12", &pkcs12("now.p12", "pin"));
    stage.connects("pkcs12-legacy", &pkcs12("once.p12", "pin"));
    stage.is_refused("wrong-key", &pem.replace("device.key", "gateway.key"), "device.pem");
    stage.is_refused("wrong-pin", &pkcs12("now.p12", "wrong-pin"), "now.p12: the PIN is wrong");
    stage.is_refused("no-pin", &pkcs12("now.p12", "no-pin"), "identity.pkcs12: pin: ");
    stage.is_refused("no-pkcs12", &pkcs12("device.key", "pin"), "device.key: no usable PKCS #12 file");
}
