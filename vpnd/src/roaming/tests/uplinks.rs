//! Uplinks that come, go, change their addresses and flap.

use super::bench::{Bench, address, config, unreachable, uplink, uplinks};
use crate::roaming::{Event, LinkId, Loss, Phase, Stall, UplinkId};

/// A tunnel over `wlan0`, which was the only one.
fn over_wlan() -> Bench {
    Bench::connected(config(&uplinks(&["wlan0"])))
}

#[test]
fn a_better_uplink_is_taken_before_the_old_one_is_left() {
    let mut bench = over_wlan();
    bench.at(60_000);
    bench.uplinks(&["eth0", "wlan0"]);
    bench.at(60_080);
    bench.up(2);
    bench.at(65_000);
    bench.expect(
        "60000 open 2 eth0 0 HTTP/3
         60080 activate 2
         60080 moved 1 2
         62080 close 1 replaced by another link",
    );
}

#[test]
fn a_worse_uplink_changes_nothing() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.uplinks(&["eth0", "wlan0", "wwan0"]);
    bench.at(3_600_000);
    bench.expect("");
}

#[test]
fn a_metered_uplink_is_left_as_soon_as_another_one_works() {
    let mut modem = uplink("wwan0");
    modem.priority = 0;
    let mut cable = uplink("eth0");
    cable.priority = 9;
    let mut bench = Bench::connected(config(&[modem.clone()]));
    bench.event(Event::UplinksChanged(vec![modem, cable]));
    bench.expect("0 open 2 eth0 0 HTTP/3");
    bench.up(2);
    bench.at(10_000);
    bench.expect(
        "0 activate 2
         0 moved 1 2
         2000 close 1 replaced by another link",
    );
}

#[test]
fn a_better_uplink_that_does_not_work_is_tried_ever_more_rarely() {
    let mut bench = over_wlan();
    bench.at(60_000);
    bench.uplinks(&["eth0", "wlan0"]);
    bench.at(70_500);
    bench.expect(
        "60000 open 2 eth0 0 HTTP/3
         60200 open 3 eth0 0 HTTP/2
         70000 close 2 no answer in time
         70200 close 3 no answer in time",
    );
    let mut waits = Vec::new();
    for _ in 0..8 {
        bench.said();
        let since = bench.milliseconds();
        waits.push((bench.until_said("eth0", 400_000) - since) / 1000);
        bench.wait(10_500);
    }
    assert!(waits[0] <= 15 && waits[7] >= 140 && waits[7] <= 300, "{waits:?}");
}

#[test]
fn without_carrier_every_other_uplink_is_tried_at_once_by_both_transports() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wlan0", "wwan0"])));
    bench.at(60_000);
    bench.uplinks(&["wlan0", "wwan0"]);
    assert_eq!(bench.machine.view().phase, Phase::Interrupted(Stall::NoUplink));
    bench.expect(
        "60000 open 2 wlan0 0 HTTP/3
         60000 open 3 wlan0 0 HTTP/2
         60000 stalled 1 NoUplink",
    );
    bench.at(60_050);
    bench.up(2);
    // The old one has nothing in flight any more.
    bench.expect(
        "60050 activate 2
         60050 close 1 replaced by another link
         60050 close 3 not needed
         60050 moved 1 2",
    );
}

#[test]
fn a_metered_uplink_waits_a_second_and_is_used_when_there_is_no_other() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wlan0", "wwan0"])));
    bench.at(60_000);
    bench.uplinks(&["wlan0", "wwan0"]);
    bench.said();
    bench.at(61_000);
    bench.expect(
        "61000 open 4 wwan0 0 HTTP/3
         61000 open 5 wwan0 0 HTTP/2",
    );
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wwan0"])));
    bench.uplinks(&["wwan0"]);
    bench.expect(
        "0 open 2 wwan0 0 HTTP/3
         0 open 3 wwan0 0 HTTP/2
         0 stalled 1 NoUplink",
    );
}

#[test]
fn the_only_uplink_is_waited_for_and_the_connection_goes_on_with_it() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.uplinks(&[]);
    bench.at(400_000);
    bench.expect("60000 stalled 1 NoUplink");
    bench.uplinks(&["eth0"]);
    bench.at(400_030);
    bench.answers(1);
    bench.at(500_000);
    bench.expect(
        "400000 rebind 1 2
         400000 probe 1
         400000 resumed 1",
    );
    assert_eq!(bench.machine.view().phase, Phase::Connected);
}

#[test]
fn a_modem_that_comes_back_with_another_number_is_the_same_uplink() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.uplinks(&[]);
    bench.said();
    let mut anew = uplink("eth0");
    anew.id = UplinkId(9);
    bench.event(Event::UplinksChanged(vec![anew]));
    bench.expect(
        "0 rebind 1 9
         0 probe 1
         0 resumed 1",
    );
}

#[test]
fn a_connection_that_did_not_survive_is_replaced_soon_after_its_uplink_came_back() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.uplinks(&[]);
    bench.at(400_000);
    bench.uplinks(&["eth0"]);
    bench.said();
    bench.at(401_100);
    bench.expect(
        "400700 open 2 eth0 0 HTTP/3
         400700 open 3 eth0 0 HTTP/2
         400700 stalled 1 NoAnswer",
    );
}

#[test]
fn a_lost_connection_without_uplink_is_down_and_comes_back_with_the_uplink() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.uplinks(&[]);
    bench.at(800_000);
    bench.lost(1);
    bench.at(900_000);
    bench.uplinks(&["eth0"]);
    bench.expect(
        "60000 stalled 1 NoUplink
         800000 down lost
         800000 failed None Unreachable(\"there is no uplink\")
         900000 open 2 eth0 0 HTTP/3",
    );
}

#[test]
fn quic_follows_a_new_address_and_tcp_is_replaced() {
    let mut moved = uplink("eth0");
    moved.addresses = vec![address(2, 8)];
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.event(Event::UplinksChanged(vec![moved.clone()]));
    bench.event(Event::LinkRebound { link: LinkId(1), local: Some(address(2, 8)) });
    bench.answers(1);
    bench.at(60_000);
    bench.expect(
        "0 rebind 1 2
         0 probe 1",
    );
    // It is used to that address now.
    moved.addresses.push(address(2, 9));
    bench.event(Event::UplinksChanged(vec![moved.clone()]));
    moved.addresses.pop();
    bench.event(Event::UplinksChanged(vec![moved.clone()]));
    bench.expect("");

    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(240);
    bench.up(2);
    bench.at(5000);
    bench.said();
    bench.event(Event::UplinksChanged(vec![moved]));
    bench.expect(
        "5000 open 3 eth0 0 HTTP/3
         5000 stalled 2 NoAnswer",
    );
}

#[test]
fn tcp_may_have_survived_a_moment_without_carrier() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(240);
    bench.up(2);
    bench.at(5000);
    bench.uplinks(&[]);
    bench.at(6000);
    bench.said();
    bench.uplinks(&["eth0"]);
    bench.answers(2);
    bench.expect(
        "6000 probe 2
         6000 resumed 2
         6000 open 3 eth0 0 HTTP/3",
    );
}

#[test]
fn an_uplink_that_comes_back_in_time_ends_the_search() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(60_000);
    bench.uplinks(&["wlan0"]);
    bench.at(60_100);
    bench.uplinks(&["eth0", "wlan0"]);
    bench.at(60_130);
    bench.answers(1);
    bench.at(70_000);
    bench.expect(
        "60000 open 2 wlan0 0 HTTP/3
         60000 open 3 wlan0 0 HTTP/2
         60000 stalled 1 NoUplink
         60100 rebind 1 2
         60100 probe 1
         60100 resumed 1
         60130 close 2 not needed
         60130 close 3 not needed",
    );
}

#[test]
fn a_flapping_better_uplink_is_waited_for_longer_each_time_and_has_to_prove_itself() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wlan0"])));
    let mut waits = Vec::new();
    for _ in 0..6 {
        bench.uplinks(&["wlan0"]);
        let link = bench.machine.view().links[1].id.0;
        bench.up(link);
        bench.said();
        let since = bench.milliseconds();
        bench.uplinks(&["eth0", "wlan0"]);
        let opened = bench.until_said("eth0 0 HTTP/3", 400_000);
        waits.push((opened - since) / 1000);
        let link = bench.machine.view().links[1].id.0;
        bench.up(link);
        for _ in 0..3 {
            assert_ne!(bench.machine.view().active, Some(LinkId(link)));
            bench.answers(link);
            bench.wait(1000);
        }
        assert_eq!(bench.machine.view().active, Some(LinkId(link)));
        bench.wait(3000);
    }
    assert_eq!(waits, [3, 10, 30, 60, 120, 240]);
}

#[test]
fn a_black_hole_behind_a_good_carrier_is_held_down_like_a_lost_one() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(60_000);
    bench.silent(1);
    bench.up(2);
    bench.said();
    bench.failed(3, unreachable());
    bench.at(62_900);
    bench.expect("62000 close 1 replaced by another link");
    assert!(bench.until_said("eth0", 20_000) <= 75_000); // With HTTP/3 over another uplink, UDP is not what was wrong.
    assert_eq!(bench.machine.memory().udp("eth0"), crate::roaming::Udp::Works);
}

#[test]
fn a_link_that_was_just_replaced_is_there_when_the_new_one_fails() {
    let mut bench = over_wlan();
    bench.at(60_000);
    bench.uplinks(&["eth0", "wlan0"]);
    bench.up(2);
    bench.at(61_000);
    bench.said();
    bench.uplinks(&["wlan0"]);
    bench.expect(
        "61000 activate 1
         61000 close 2 replaced by another link
         61000 moved 2 1",
    );
}

#[test]
fn attempts_over_an_uplink_that_goes_end_with_it() {
    let mut bench = Bench::new(config(&uplinks(&["eth0", "wlan0"])));
    bench.at(300);
    bench.uplinks(&["wlan0"]);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         200 open 2 eth0 0 HTTP/2
         300 close 1 the uplink is gone
         300 close 2 the uplink is gone
         300 open 3 wlan0 0 HTTP/3",
    );
}

#[test]
fn an_uplink_that_comes_ends_the_wait() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(3_600_000);
    bench.until_said("open", 70_000);
    bench.wait(5000);
    let now = bench.milliseconds();
    bench.said();
    bench.uplinks(&["eth0", "wlan0"]);
    let said = bench.said();
    assert!(said.len() == 1 && said[0].ends_with("wlan0 0 HTTP/3"), "{said:?}");
    // The others follow soon.
    assert!(bench.until_said("eth0 0 HTTP/3", 5000) <= now + 4000);
}

#[test]
fn an_uplink_without_luck_does_not_hide_that_another_one_was_lost() {
    // The better one fails while the worse one carries the tunnel, then the worse one is lost, too.
    let mut bench = over_wlan();
    bench.at(60_000);
    bench.uplinks(&["eth0", "wlan0"]);
    bench.failed(2, unreachable());
    bench.failed(3, unreachable());
    bench.said();
    bench.event(Event::LinkLost { link: LinkId(1), loss: Loss::ByPath("reset".to_owned()) });
    let said = bench.said();
    assert!(said.contains(&"60000 open 4 eth0 0 HTTP/3".to_owned()), "{said:?}");
}
