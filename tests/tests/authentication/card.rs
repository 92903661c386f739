//! A key on a card, with SoftHSM in the card's place and OpenSC's tools in the administrator's hand.

use crate::stage::Stage;

const PIN: &str = "471147";
/// What finds the module on every Debian.
const PREPARE: &str = r#"
module=$(ls /usr/lib/softhsm/libsofthsm2.so /usr/lib/*/softhsm/libsofthsm2.so 2>/dev/null | head -n 1)
export SOFTHSM2_CONF="$PWD/softhsm2.conf"
"#;

#[test]
fn a_key_on_a_card_opens_the_tunnel() {
    let stage = Stage::set();
    let place = stage.place();
    stage.prepare(&format!(
        r#"{PREPARE}
        mkdir tokens; ln -s "$module" module.so
        printf 'directories.tokendir = %s/tokens\nobjectstore.backend = file\nlog.level = ERROR\n' "$PWD" > softhsm2.conf
        printf '{PIN}\n' > card-pin; printf '111111\n' > wrong-card-pin
        softhsm2-util --init-token --free --label VPN --so-pin 12345678 --pin {PIN}
        softhsm2-util --init-token --free --label empty --so-pin 12345678 --pin {PIN}
        softhsm2-util --import device.key --token VPN --label device --id 01 --pin {PIN}
        openssl x509 -in device.pem -outform DER -out device.der
        pkcs11-tool --module "$module" --token-label VPN --login --pin {PIN} --write-object device.der --type cert --id 01 --label device"#
    ));
    let card = |uri: &str, pin: &str| {
        format!(
            "[identity.pkcs11]\nmodule = \"{place}/module.so\"\nuri = \"{uri}\"\npin = {{ file = \"{place}/{pin}\" }}"
        )
    };
    let device = "pkcs11:token=VPN;object=device";
    stage.connects("card", &card(device, "card-pin"));
    stage.is_refused("no-card", &card("pkcs11:token=other", "card-pin"), "no card for pkcs11:token=other");
    stage.is_refused("two-cards", &card("pkcs11:", "card-pin"), "2 cards fit");
    stage.is_refused("no-key", &card("pkcs11:token=empty", "card-pin"), "no private key");
    stage.is_refused("no-module", &card(device, "card-pin").replace("module.so", "ca.pem"), "cannot be loaded");

    // A wrong PIN is tried once, however often the machine starts, and then not even the right one is.
    stage.is_refused("wrong-pin", &card(device, "wrong-card-pin"), "the card's PIN is wrong");
    for attempt in ["once-more", "and-again"] {
        stage.is_refused(attempt, &card(device, "wrong-card-pin"), "a wrong PIN was entered before");
    }
    stage.is_refused("doubted", &card(device, "card-pin"), "a wrong PIN was entered before");
    stage.prepare(&format!(
        r#"{PREPARE} pkcs11-tool --module "$module" --token-label VPN --login --pin {PIN} --list-objects"#
    ));
    stage.connects("card-again", &card(device, "card-pin"));
}
