//! From nothing to a tunnel: HTTP/3, then HTTP/2, then the next uplink.

use std::time::Duration;

use m2m_protocol::device_config::Transport as Wanted;

use super::bench::{Bench, config, unreachable, uplinks};
use crate::roaming::keepalive::FIRST;
use crate::roaming::{Config, Event, LinkId, Phase, Udp};
use crate::state::ConnectFailure;

#[test]
fn http3_that_is_quick_is_alone() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(30);
    bench.up(1);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         30 activate 1
         30 up 1",
    );
    assert_eq!(bench.keepalives, [(1, FIRST)]);
    bench.at(3_600_000);
    bench.expect("");
    assert_eq!(bench.machine.poll_timeout(), None);
}

#[test]
fn http2_races_after_200_milliseconds_and_the_first_one_up_wins() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(450);
    bench.up(1);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         200 open 2 eth0 0 HTTP/2
         450 activate 1
         450 close 2 not needed
         450 up 1",
    );
}

#[test]
fn where_udp_is_blocked_there_is_a_tunnel_at_once_and_the_network_is_remembered() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(240);
    bench.up(2);
    bench.at(2300);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         200 open 2 eth0 0 HTTP/2
         240 activate 2
         240 up 2
         2240 close 1 no answer in time",
    );
    let memory = bench.machine.memory().clone();
    assert_eq!(memory.udp("eth0"), Udp::Dead);
    // The next time HTTP/2 does not wait.
    let mut bench = Bench::new(Config { memory, ..config(&uplinks(&["eth0"])) });
    bench.at(40);
    bench.up(2);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         0 open 2 eth0 0 HTTP/2
         40 activate 2
         40 up 2",
    );
    // Another network is another matter.
    assert_eq!(bench.machine.memory().udp("wlan0"), Udp::Unknown);
}

#[test]
fn http3_that_is_a_little_later_replaces_http2() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(600);
    bench.up(2);
    bench.at(900);
    bench.up(1);
    bench.at(5000);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         200 open 2 eth0 0 HTTP/2
         600 activate 2
         600 up 2
         900 activate 1
         900 moved 2 1
         2900 close 2 replaced by another link",
    );
    assert_eq!(bench.machine.memory().udp("eth0"), Udp::Works);
}

#[test]
fn the_next_uplink_is_tried_after_a_second_or_when_all_before_it_has_failed() {
    let mut bench = Bench::new(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(1100);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         200 open 2 eth0 0 HTTP/2
         1000 open 3 wlan0 0 HTTP/3",
    );
    let mut bench = Bench::new(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(10);
    bench.failed(1, unreachable());
    bench.at(20);
    bench.failed(2, unreachable());
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         10 open 2 eth0 0 HTTP/2
         20 open 3 wlan0 0 HTTP/3",
    );
}

#[test]
fn what_is_better_and_a_little_later_is_taken() {
    let mut bench = Bench::new(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(1050);
    bench.up(3);
    bench.at(2000);
    bench.up(1);
    bench.at(5000);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         200 open 2 eth0 0 HTTP/2
         1000 open 3 wlan0 0 HTTP/3
         1050 activate 3
         1050 up 3
         2000 activate 1
         2000 close 2 not needed
         2000 moved 3 1
         4000 close 3 replaced by another link",
    );
}

#[test]
fn only_the_configured_transport_is_used() {
    for (wanted, expected) in [(Wanted::Http3, "0 open 1 eth0 0 HTTP/3"), (Wanted::Http2, "0 open 1 eth0 0 HTTP/2")] {
        let mut bench = Bench::new(Config { transport: wanted, ..config(&uplinks(&["eth0"])) });
        bench.at(500);
        bench.expect(expected);
        bench.up(1);
        bench.said();
        bench.at(3_600_000);
        bench.expect("");
    }
}

#[test]
fn without_an_uplink_nothing_is_tried_until_there_is_one() {
    let mut bench = Bench::new(config(&[]));
    bench.expect("0 failed None Unreachable(\"there is no uplink\")");
    assert_eq!(bench.machine.view().phase, Phase::Waiting { until: None });
    assert_eq!(bench.machine.poll_timeout(), None);
    bench.at(5000);
    bench.uplinks(&["wlan0"]);
    bench.expect("5000 open 1 wlan0 0 HTTP/3");
}

#[test]
fn the_gravest_failure_of_a_round_is_reported_and_decides_how_it_goes_on() {
    let refused = || ConnectFailure::Refused("403".to_owned());
    let two = Config { gateways: vec![1, 2], ..config(&uplinks(&["eth0"])) };
    let mut bench = Bench::new(two.clone());
    bench.at(50);
    bench.failed(1, refused());
    // The other transport to the same gateway is spared.
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         50 open 2 eth0 1 HTTP/3",
    );
    bench.failed(2, unreachable());
    bench.failed(3, unreachable());
    bench.expect(
        "50 open 3 eth0 1 HTTP/2
         50 failed Some(0) Refused(\"403\")",
    );
    // The other one is asked again soon, the one that refused is not.
    assert!(bench.until_said("eth0 1", 5000) <= 5000);
    assert!(bench.until_said("eth0 0", 120_000) >= 30_000);

    // Where all refuse, they are left in peace ever longer.
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.failed(1, refused());
    bench.said();
    let mut waits = Vec::new();
    for _ in 0..7 {
        let since = bench.milliseconds();
        waits.push((bench.until_said("open", 2_000_000) - since) / 1000);
        let link = bench.machine.view().links[0].id.0;
        bench.failed(link, refused());
        bench.said();
    }
    assert!(waits[0] >= 29 && waits[6] >= 900 && waits[6] <= 1800, "{waits:?}");

    // Where there is nothing to connect with, nothing more is tried in this round.
    for failure in [ConnectFailure::Identity("no TPM".to_owned()), ConnectFailure::Expired("2026".to_owned())] {
        let mut bench = Bench::new(two.clone());
        bench.at(250);
        bench.failed(1, failure.clone());
        bench.expect(&format!(
            "0 open 1 eth0 0 HTTP/3
             200 open 2 eth0 0 HTTP/2
             250 close 2 given up
             250 failed Some(0) {failure:?}"
        ));
        assert!(bench.until_said("open", 60_000) >= 4_000);
    }
}

#[test]
fn a_device_on_demand_sleeps_until_there_is_a_packet_and_again_when_there_is_none() {
    let mut bench = Bench::new(Config { on_demand: true, ..config(&uplinks(&["eth0"])) });
    bench.expect("0 asleep");
    bench.at(10_000);
    assert_eq!((bench.machine.poll_timeout(), bench.machine.view().phase), (None, Phase::Asleep));
    bench.event(Event::Traffic);
    bench.event(Event::Traffic);
    bench.up(1);
    bench.expect(
        "10000 open 1 eth0 0 HTTP/3
         10000 activate 1
         10000 up 1",
    );
    bench.at(400_000);
    bench.event(Event::Idle);
    bench.expect(
        "400000 close 1 nobody uses the tunnel
         400000 asleep",
    );
    // An uplink that comes does not wake it.
    bench.uplinks(&["eth0", "wlan0"]);
    bench.at(500_000);
    bench.expect("");
    bench.event(Event::Traffic);
    bench.expect("500000 open 2 eth0 0 HTTP/3");
}

#[test]
fn a_packet_cuts_a_long_wait_short() {
    let mut bench = Bench::new(Config { on_demand: true, ..config(&uplinks(&["eth0"])) });
    bench.event(Event::Traffic);
    bench.at(3_600_000);
    bench.said();
    bench.until_said("open", 70_000);
    // Not at once after a round, but when the last one is some seconds ago.
    bench.wait(500);
    bench.said();
    bench.event(Event::Traffic);
    bench.expect("");
    bench.wait(4000);
    bench.event(Event::Traffic);
    assert!(bench.said().iter().any(|line| line.contains("open")));
}

#[test]
fn what_always_is_on_does_not_care_about_idleness() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.event(Event::Idle);
    bench.event(Event::Traffic);
    bench.expect("");
}

#[test]
fn the_end_closes_everything() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.uplinks(&["eth0", "wlan0"]);
    bench.silent(1);
    bench.said();
    bench.event(Event::Stop);
    let closed = bench.said();
    assert!(
        closed.len() >= 3 && closed.iter().all(|line| line.contains("close") && line.ends_with("not wanted any more"))
    );
    assert_eq!((bench.machine.poll_timeout(), bench.machine.view().phase), (None, Phase::Stopped));
    bench.event(Event::Traffic);
    bench.event(Event::LinkUp { link: LinkId(2), local: None });
    bench.uplinks(&["eth0"]);
    bench.expect("");
}

#[test]
fn the_keepalive_of_the_network_is_used_and_follows_what_is_learned() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    let link = LinkId(1);
    bench.event(Event::KeepaliveAnswered { link, silence: Duration::from_secs(25) });
    bench.event(Event::KeepaliveAnswered { link, silence: Duration::from_millis(37_500) });
    bench.event(Event::BindingLost { link, silence: Duration::from_millis(56_250) });
    let seconds: Vec<f32> = bench.keepalives.iter().map(|(_, interval)| interval.as_secs_f32()).collect();
    assert_eq!(seconds, [25.0, 37.5, 56.25, 46.875]);
    let memory = bench.machine.memory().clone();
    let again = Bench::connected(Config { memory, ..config(&uplinks(&["eth0"])) });
    assert_eq!(again.keepalives, [(1, Duration::from_millis(46_875))]);
}
