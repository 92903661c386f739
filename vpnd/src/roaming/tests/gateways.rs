//! Gateways that leave, fail and come back.

use super::bench::{Bench, config, unreachable, uplinks};
use crate::roaming::{Config, Event, LinkId, Loss, Phase};

fn two_gateways() -> Bench {
    Bench::connected(Config { gateways: vec![0, 1], ..config(&uplinks(&["eth0"])) })
}

#[test]
fn a_gateway_that_leaves_is_replaced_before_it_is_gone() {
    let mut bench = two_gateways();
    bench.at(60_000);
    bench.go_away(1);
    assert_eq!(bench.machine.view().phase, Phase::Leaving);
    bench.at(60_100);
    bench.up(2);
    bench.at(65_000);
    bench.expect(
        "60000 open 2 eth0 1 HTTP/3
         60100 activate 2
         60100 moved 1 2
         62100 close 1 replaced by another link",
    );
}

#[test]
fn the_gateway_after_the_last_is_the_first() {
    let mut bench = Bench::new(Config { gateways: vec![0, 0, 0], ..config(&uplinks(&["eth0"])) });
    bench.at(2100);
    bench.said();
    // The third one answers first.
    bench.up(5);
    bench.at(10_000);
    bench.said();
    bench.go_away(5);
    bench.at(11_000);
    let said = bench.said();
    assert!(said[0].ends_with("eth0 0 HTTP/3") && said.iter().any(|line| line.ends_with("eth0 1 HTTP/3")), "{said:?}");
}

#[test]
fn the_only_gateway_is_connected_anew_after_a_moment_that_differs_between_devices() {
    let mut moments = std::collections::BTreeSet::new();
    for seed in 0..20 {
        let now = std::time::Instant::now();
        let (mut machine, _) = crate::roaming::Roaming::new(config(&uplinks(&["eth0"])), seed, now);
        machine.handle(Event::LinkUp { link: LinkId(1), local: None }, now);
        let commands = machine.handle(Event::GoAway { link: LinkId(1) }, now);
        assert_eq!(commands, []);
        let wait = machine.poll_timeout().unwrap() - now;
        assert!(wait.as_millis() <= 2000);
        moments.insert(wait.as_millis());
    }
    assert!(moments.len() >= 18, "{moments:?}");
}

#[test]
fn a_gateway_that_leaves_while_something_better_is_tried_makes_one_move_only() {
    let mut bench = Bench::connected(Config { gateways: vec![0, 1], ..config(&uplinks(&["wlan0"])) });
    bench.at(60_000);
    bench.uplinks(&["eth0", "wlan0"]);
    bench.at(60_050);
    bench.go_away(1);
    bench.expect(
        "60000 open 2 eth0 0 HTTP/3
         60050 close 2 the gateway is going down
         60050 open 3 wlan0 1 HTTP/3",
    );
    bench.up(3);
    bench.at(62_040);
    bench.expect(
        "60050 activate 3
         60050 moved 1 3",
    );
    // The better uplink has its turn when this move is over.
    bench.at(62_050);
    bench.expect(
        "62050 close 1 replaced by another link
         62050 open 4 eth0 1 HTTP/3",
    );
}

#[test]
fn a_gateway_that_is_gone_before_there_is_another_one_is_like_any_loss() {
    let mut bench = two_gateways();
    bench.at(60_000);
    bench.go_away(1);
    bench.at(60_500);
    bench.said();
    bench.event(Event::LinkLost { link: LinkId(1), loss: Loss::ByGateway("bye".to_owned()) });
    let said = bench.said();
    assert!(said.contains(&"60500 down bye".to_owned()), "{said:?}");
    bench.up(2);
    assert!(bench.said().contains(&"60500 up 2".to_owned()));
}

#[test]
fn a_gateway_that_fails_is_followed_by_the_next() {
    let mut bench = Bench::new(Config { gateways: vec![0, 1], ..config(&uplinks(&["eth0"])) });
    bench.at(10);
    bench.failed(1, unreachable());
    bench.failed(2, unreachable());
    bench.up(3);
    bench.expect(
        "0 open 1 eth0 0 HTTP/3
         10 open 2 eth0 0 HTTP/2
         10 open 3 eth0 1 HTTP/3
         10 activate 3
         10 up 3",
    );
}

#[test]
fn the_preferred_gateway_is_tried_again_every_few_minutes_and_taken() {
    let mut bench = Bench::new(Config { gateways: vec![0, 1], ..config(&uplinks(&["eth0"])) });
    bench.failed(1, unreachable());
    bench.failed(2, unreachable());
    bench.up(3);
    bench.said();
    let first = bench.until_said("eth0 0 HTTP/3", 300_000);
    assert!((120_000..=240_000).contains(&first), "{first}");
    bench.wait(11_000);
    let since = bench.milliseconds();
    let second = bench.until_said("eth0 0 HTTP/3", 500_000);
    assert!((220_000..=500_000).contains(&(second - since)), "{second}");
    let link = bench.machine.view().links.last().unwrap().id.0;
    let now = bench.milliseconds();
    bench.up(link);
    bench.wait(5000);
    bench.expect(&format!(
        "{now} activate {link}
         {now} moved 3 {link}
         {} close 3 replaced by another link",
        now + 2000
    ));
}

#[test]
fn equal_gateways_are_not_preferred_to_each_other() {
    let mut bench = Bench::new(Config { gateways: vec![5, 5], ..config(&uplinks(&["eth0"])) });
    bench.failed(1, unreachable());
    bench.failed(2, unreachable());
    bench.up(3);
    bench.said();
    bench.at(3_600_000);
    bench.expect("");
}

#[test]
fn the_gateway_with_the_session_is_tried_first_after_a_loss() {
    let mut bench = Bench::new(Config { gateways: vec![0, 1], ..config(&uplinks(&["eth0"])) });
    bench.failed(1, unreachable());
    bench.failed(2, unreachable());
    bench.up(3);
    bench.at(60_000);
    bench.said();
    bench.lost(3);
    bench.expect(
        "60000 down lost
         60000 open 4 eth0 1 HTTP/3",
    );
}
