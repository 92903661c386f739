//! A key that opens on one machine only. Files of the test stand for the machine's facts, so that it can be another one.

use crate::stage::Stage;

#[test]
fn a_key_that_is_bound_to_the_machine_opens_the_tunnel_there() {
    let stage = Stage::set();
    stage.prepare("echo 4c4c4544-0042 > uuid; echo BSS-0001 > board; echo 52:54:00:12:34:56 > mac");
    let at = |name: &str| format!("{}/{name}", stage.place());
    let facts = [
        ("/sys/class/dmi/id/product_uuid", at("uuid")),
        ("/sys/class/dmi/id/board_serial", at("board")),
        ("/sys/class/net/eth0/address", at("mac")),
    ];
    let facts: Vec<(&str, &str)> = facts.iter().map(|(fact, file)| (*fact, file.as_str())).collect();
    let bound = stage.documented_with("File for this machine", &facts);
    stage.connects("bound", &bound);
    stage.prepare("grep -q PRIVATE device.key && ! grep -q PRIVATE device.bound; echo 52:54:00:65:43:21 > mac");
    stage.connects("one-fact-changed", &bound);
    stage.prepare("rm uuid");
    let differing = format!("the key belongs to another machine: {}, {} differ", at("uuid"), at("mac"));
    stage.is_refused("another-machine", &bound, &differing);
}
