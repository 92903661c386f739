//! A tunnel's life on a good path: opened, used, closed.

use std::time::Duration;

use m2m_tunnel::{
    capsule::AssignedAddress,
    http3::Code,
    routes::IpRange,
    session::{CloseReason, Event, PREFIX},
};

use crate::world::{Side, World};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_tunnel_opens_in_two_round_trips() {
    let mut world = World::new(1);
    let took = world.run_until(SECOND, |world| world.client.is_open());
    assert!(world.client.is_open());
    assert_eq!(took, Duration::from_millis(40), "two round trips of 20 ms");
    assert!(world.client.take(|event| *event == Event::Connected).is_some());
    assert!(world.client.take(|event| *event == Event::Established).is_some());
    let Some(Event::Requested(request, _)) = world.server.take(|event| matches!(event, Event::Requested(..))) else {
        panic!("no request")
    };
    assert_eq!((request.authority.as_str(), request.path.as_str()), ("gateway.example", "/.well-known/masque/ip/*/*/"));
}

#[test]
fn addresses_routes_and_packets_pass() {
    let mut world = World::open(1);
    let assigned = vec![AssignedAddress::unrequested("10.99.0.2/32".parse().unwrap())];
    let routes = vec![IpRange::from_prefix("10.20.0.0/24".parse().unwrap())];
    world.server.session().assign_addresses(assigned.clone());
    world.server.session().advertise_routes(routes.clone());
    world.send(Side::Client, b"up");
    world.send(Side::Server, b"down");
    world.run(SECOND);
    assert!(world.client.take(|event| *event == Event::AddressesAssigned(assigned.clone())).is_some());
    assert!(world.client.take(|event| *event == Event::RoutesAdvertised(routes.clone())).is_some());
    assert_eq!(world.server.packets, [&b"up"[..]]);
    assert_eq!(world.client.packets, [&b"down"[..]]);
    assert!(world.client.session().max_packet_size() >= 1280);
}

#[test]
fn the_end_is_told() {
    let mut world = World::open(1);
    let now = world.now;
    world.server.session().go_away();
    world.run(SECOND);
    assert!(world.client.take(|event| *event == Event::GoAway).is_some());
    world.server.session().close(Code(0x6d3201), "revoked", now + SECOND);
    world.run(SECOND);
    let ending = world.client.take(|event| matches!(event, Event::Closed(_))).unwrap();
    let expected = CloseReason::Peer { code: Code(0x6d3201), reason: "revoked".to_owned() };
    assert_eq!(ending, Event::Closed(expected));
    assert!(world.server.take(|event| *event == Event::Closed(CloseReason::Local)).is_some());
    world.run(10 * SECOND);
    assert!(world.client.session().is_drained() && world.server.session().is_drained());
}

#[test]
fn the_end_is_told_when_more_waits_than_the_path_takes() {
    let mut world = World::open(1);
    let now = world.now;
    for _ in 0..500 {
        let packet = [&PREFIX[..], &[0x45; 1200]].concat();
        world.server.session().send(packet.into(), now).unwrap();
    }
    world.drive();
    world.server.session().close(Code(0x6d3201), "revoked", now);
    world.run(SECOND);
    let ending = world.client.take(|event| matches!(event, Event::Closed(_)));
    let expected = CloseReason::Peer { code: Code(0x6d3201), reason: "revoked".to_owned() };
    assert_eq!(ending, Some(Event::Closed(expected)));
}
