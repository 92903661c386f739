//! A key on a card, with SoftHSM in the card's place and OpenSC's tools in the administrator's hand.

use crate::stage::Stage;

#[test]
fn a_key_on_a_card_opens_the_tunnel() {
    let stage = Stage::set();
    stage.prepare(
        "mkdir tokens
        printf 'directories.tokendir = %s/tokens\\nobjectstore.backend = file\\nlog.level = ERROR\\n' \"$PWD\" > softhsm2.conf
        softhsm2-util --init-token --free --label empty --so-pin 12345678 --pin 471147
        printf '111111\\n' > wrong.pin",
    );
    let card = stage.documented("Card");
    let wrong = card.replace("card.pin", "wrong.pin");
    let at = |uri: &str| card.replace("pkcs11:token=VPN;object=device", uri);
    stage.connects("card", &card);
    stage.is_refused("no-card", &at("pkcs11:token=other"), "no card for pkcs11:token=other");
    stage.is_refused("two-cards", &at("pkcs11:"), "2 cards fit");
    stage.is_refused("no-key", &at("pkcs11:token=empty"), "no private key");
    stage.is_refused("no-module", &card.replace("libsofthsm2.so", "libnone.so"), "cannot be loaded");

    // A wrong PIN is tried once, however often the machine starts, and then not even the right one is.
    stage.is_refused("wrong-pin", &wrong, "the card's PIN is wrong");
    for attempt in ["once-more", "and-again"] {
        stage.is_refused(attempt, &wrong, "a wrong PIN was entered before");
    }
    stage.is_refused("doubted", &card, "a wrong PIN was entered before");
    let module = "--module /usr/lib/softhsm/libsofthsm2.so --token-label VPN";
    stage.prepare(&format!("pkcs11-tool {module} --login --pin $(cat card.pin) --list-objects"));
    stage.connects("card-again", &card);
}
