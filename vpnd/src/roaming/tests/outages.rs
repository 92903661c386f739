//! No link at all, for moments or for days.

use std::time::Duration;

use super::bench::{Bench, config, unreachable, uplinks};
use crate::roaming::{Config, Event, LinkId, Loss, Phase};

#[test]
fn a_lost_link_is_replaced_at_once() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.lost(1);
    bench.up(2);
    bench.expect(
        "60000 down lost
         60000 open 2 eth0 0 HTTP/3
         60000 activate 2
         60000 up 2",
    );
}

#[test]
fn a_link_that_its_gateway_ended_is_replaced_after_a_moment() {
    let mut bench = Bench::connected(config(&uplinks(&["eth0"])));
    bench.at(60_000);
    bench.event(Event::LinkLost { link: LinkId(1), loss: Loss::ByGateway("reset".to_owned()) });
    bench.expect("60000 down reset");
    let opened = bench.until_said("open", 1000);
    assert!(opened > 60_000 && opened <= 61_000, "{opened}");
}

/// When attempts began, in milliseconds, while every one of them failed as `how` says.
fn attempts(until: u64, how: impl Fn(&mut Bench, u64)) -> Vec<u64> {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    let mut begun = Vec::new();
    let mut next = 1;
    while bench.milliseconds() < until {
        for line in bench.said() {
            if line.contains("open") {
                begun.push(line.split(' ').next().unwrap().parse().unwrap());
                how(&mut bench, next);
                next += 1;
            }
        }
        bench.wait(50);
    }
    begun
}

#[test]
fn for_ten_minutes_no_wait_is_longer_than_four_seconds_then_up_to_a_minute() {
    let refused = |bench: &mut Bench, link: u64| bench.failed(link, unreachable());
    let nothing = |_: &mut Bench, _: u64| {};
    for begun in [attempts(3_600_000, refused), attempts(3_600_000, nothing)] {
        let gaps: Vec<u64> = begun.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let young = begun.iter().filter(|time| **time < 600_000).count();
        assert!(gaps[..young - 1].iter().all(|gap| *gap <= 4100), "{:?}", gaps[..young - 1].iter().max()); // Twice in four seconds at most, on average.
        assert!(young < 600, "{young} attempts in ten minutes");
        let longest = gaps.iter().max().unwrap();
        assert!((40_000..=60_100).contains(longest), "{longest}");
    }
}

#[test]
fn attempts_without_answer_stay_for_slow_links_and_are_not_many() {
    let mut bench = Bench::new(Config { gateways: vec![0, 1, 2], ..config(&uplinks(&["eth0", "wlan0", "wwan0"])) });
    let mut most = 0;
    for time in (0..700_000).step_by(100) {
        bench.at(time);
        let view = bench.machine.view();
        most = most.max(view.links.len());
        assert!(time > 600_000 || view.phase == Phase::Connecting, "{:?}", view.phase);
    }
    assert_eq!(most, 16);
    // None was given up early.
    let mut begun = std::collections::HashMap::new();
    for line in bench.said() {
        let words: Vec<&str> = line.split(' ').collect();
        let time: u64 = words[0].parse().unwrap();
        match words[1] {
            "open" => {
                begun.insert(words[2].to_owned(), time);
            }
            // One of several at the same way may make room sooner.
            "close" => assert!(time - begun[words[2]] >= 3000, "{line}"),
            _ => {}
        }
    }
}

#[test]
fn a_slow_link_comes_up_by_an_attempt_of_an_earlier_round() {
    let mut bench = Bench::new(config(&uplinks(&["eth0"])));
    bench.at(7500);
    bench.said();
    bench.up(1);
    let said = bench.said();
    assert!(said.contains(&"7500 up 1".to_owned()), "{said:?}");
}

#[test]
fn a_thousand_devices_are_back_within_five_seconds_and_not_at_one_moment() {
    // The gateway is gone for three minutes, and every device tries for itself. Whatever an attempt sends after its return, at 0, 1, 3 and 7
    // seconds of its life, is answered at once.
    const RETURN: u64 = 180_000;
    let mut back: Vec<u64> = Vec::new();
    for seed in 0..1000 {
        let start = std::time::Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let (mut machine, _) = crate::roaming::Roaming::new(config(&uplinks(&["eth0"])), seed, start);
        machine.handle(Event::LinkUp { link: LinkId(1), local: None }, start);
        let loss = Loss::ByGateway("reset".to_owned());
        let mut opened = Vec::new();
        let mut note = |commands: Vec<crate::roaming::Command>, now: u64| {
            for command in commands {
                if let crate::roaming::Command::Open { .. } = command {
                    opened.push(now);
                }
            }
        };
        note(machine.handle(Event::LinkLost { link: LinkId(1), loss }, at(1000)), 1000);
        while let Some(due) = machine.poll_timeout().filter(|due| *due < at(RETURN + 20_000)) {
            let now = u64::try_from((due - start).as_millis()).unwrap();
            note(machine.handle_timeout(due), now);
        }
        let sent = opened.iter().flat_map(|opened| [0, 1000, 3000, 7000].map(|later| opened + later));
        back.push(sent.filter(|time| *time >= RETURN).min().unwrap() - RETURN);
    }
    let latest = back.iter().max().unwrap();
    let mut buckets = [0; 50];
    for time in &back {
        buckets[usize::try_from(time / 100).unwrap()] += 1;
    }
    let busiest = buckets.iter().max().unwrap();
    println!("the last of 1000 devices after {latest} ms, {busiest} in the busiest tenth of a second");
    assert!(*latest < 5000, "{latest}");
    assert!(*busiest < 200, "{buckets:?}");
}
