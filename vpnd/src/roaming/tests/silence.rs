//! A link that does not answer: UDP died, the peer died, or only a moment passed.

use super::bench::{Bench, config, unreachable, uplinks};
use crate::roaming::{CloseReason, Config, LinkState, Phase, Stall, Udp};

#[test]
fn udp_that_dies_in_mid_session_leaves_the_tunnel_on_tcp() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.silent(1);
    assert_eq!(bench.machine.view().phase, Phase::Interrupted(Stall::NoAnswer));
    bench.at(60_080);
    bench.up(2);
    bench.at(70_000);
    // One more HTTP/3 connection beside the silent one, in case only that one's path is broken, had not begun yet.
    bench.expect(
        "60000 open 2 eth0 0 HTTP/2
         60000 stalled 1 NoAnswer
         60080 activate 2
         60080 moved 1 2
         62080 close 1 replaced by another link",
    );
    assert_eq!(bench.machine.memory().udp("eth0"), Udp::Dead);
}

#[test]
fn a_silent_link_is_answered_on_all_sides_and_the_first_one_up_is_taken() {
    let two = Config { gateways: vec![0, 1], ..config(&uplinks(&["eth0", "wlan0"])) };
    let mut bench = Bench::connected(two);
    bench.at(60_000);
    bench.silent(1);
    bench.at(61_000);
    bench.expect(
        "60000 open 2 wlan0 0 HTTP/3
         60000 open 3 eth0 0 HTTP/2
         60000 stalled 1 NoAnswer
         60200 open 4 wlan0 0 HTTP/2
         60300 open 5 eth0 0 HTTP/3
         61000 open 6 eth0 1 HTTP/3
         61000 open 7 wlan0 1 HTTP/3",
    );
    // The next gateway over the better uplink; what would be better yet keeps its chance for a moment.
    bench.at(61_050);
    bench.up(6);
    let kept: Vec<u64> = bench.machine.view().links.iter().map(|view| view.id.0).collect();
    assert_eq!(kept, [1, 3, 5, 6]);
    bench.at(63_100);
    let kept: Vec<u64> = bench.machine.view().links.iter().map(|view| view.id.0).collect();
    assert_eq!(kept, [6]);
}

#[test]
fn an_answer_in_time_closes_all_that_was_opened() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(60_000);
    bench.silent(1);
    bench.at(60_150);
    bench.answers(1);
    bench.at(63_000);
    bench.expect(
        "60000 open 2 wlan0 0 HTTP/3
         60000 open 3 eth0 0 HTTP/2
         60000 stalled 1 NoAnswer
         60150 close 2 not needed
         60150 close 3 not needed
         60150 resumed 1",
    );
    assert_eq!(bench.machine.view().phase, Phase::Connected);
}

#[test]
fn false_alarms_make_it_calmer() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    let mut delays = Vec::new();
    for alarm in 0..7 {
        bench.at(60_000 + 3000 * alarm);
        bench.silent(1);
        let start = bench.milliseconds();
        let opened = bench.until_said("open", 2500);
        delays.push(opened - start);
        bench.answers(1);
        bench.said();
    }
    assert_eq!(delays, [0, 0, 250, 500, 1000, 2000, 2000]);
    // They are forgotten.
    bench.at(300_000);
    bench.silent(1);
    assert_eq!(bench.until_said("open", 2500), 300_000);
}

#[test]
fn a_silent_gateway_is_left_for_the_next_one() {
    let mut bench = Bench::connected(Config { gateways: vec![0, 1], ..config(&uplinks(&["eth0"])) });
    bench.at(60_000);
    bench.silent(1);
    bench.at(61_040);
    bench.said();
    bench.up(4);
    bench.expect(
        "61040 activate 4
         61040 moved 1 4",
    );
    // It is there again a little later, but the move is made.
    bench.answers(1);
    bench.at(64_000);
    let closed = bench.said();
    assert!(closed.contains(&format!("63040 close 1 {}", CloseReason::Replaced)), "{closed:?}");
}

#[test]
fn a_silent_link_that_is_lost_lets_the_search_go_on() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.silent(1);
    bench.failed(2, unreachable());
    bench.at(60_100);
    bench.lost(1);
    bench.expect(
        "60000 open 2 eth0 0 HTTP/2
         60000 stalled 1 NoAnswer
         60000 open 3 eth0 0 HTTP/3
         60100 down lost",
    );
    bench.at(60_400);
    bench.up(4);
    bench.expect(
        "60300 open 4 eth0 0 HTTP/2
         60400 activate 4
         60400 up 4",
    );
}

#[test]
fn http3_is_tried_again_ever_more_rarely_and_taken_when_it_has_proven_itself() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(240);
    bench.up(2);
    bench.said();
    let mut waits = Vec::new();
    for attempt in 0..8 {
        let since = bench.milliseconds();
        waits.push((bench.until_said("HTTP/3", 700_000) - since) / 1000);
        bench.failed(3 + attempt, unreachable());
    }
    assert!(waits[0] >= 15 && waits[0] <= 30, "{waits:?}");
    assert!(waits[1..].windows(2).all(|pair| pair[1] + 1 >= pair[0] / 2), "{waits:?}");
    assert!(waits[7] >= 300 && waits[7] <= 600, "{waits:?}");
    bench.until_said("HTTP/3", 700_000);
    let start = bench.milliseconds();
    bench.up(11);
    for _ in 0..3 {
        assert!(bench.said().contains(&format!("{} probe 11", bench.milliseconds())));
        assert_eq!(bench.machine.view().links[1].state, LinkState::Proving);
        bench.answers(11);
        // A second answer to one question proves nothing.
        bench.answers(11);
        bench.wait(1000);
    }
    let moved = start + 2000;
    bench.at(start + 10_000);
    bench.expect(&format!(
        "{moved} activate 11
         {moved} moved 2 11
         {} close 2 replaced by another link",
        moved + 2000
    ));
    assert_eq!(bench.machine.memory().udp("eth0"), Udp::Works);
}

#[test]
fn http3_that_lets_only_the_first_packets_pass_is_not_taken() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(240);
    bench.up(2);
    bench.until_said("open 3 eth0 0 HTTP/3", 60_000);
    bench.up(3);
    bench.answers(3);
    let end = bench.milliseconds() + 6000;
    bench.at(end);
    let said = bench.said();
    assert!(said.contains(&format!("{end} close 3 answers are missing")), "{said:?}");
    assert!(!said.iter().any(|line| line.contains("activate")));
}

#[test]
fn a_change_of_the_network_tries_http3_at_once() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(240);
    bench.up(2);
    bench.at(5000);
    bench.said();
    let mut changed = uplinks(&["eth0"]);
    changed[0].addresses.push("2001:db8::7".parse().unwrap());
    bench.event(crate::roaming::Event::UplinksChanged(changed));
    bench.expect("5000 open 3 eth0 0 HTTP/3");
}
