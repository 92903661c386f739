//! What a tunnel is for.

use std::{net::Ipv4Addr, sync::Arc};

use m2m_tunnel::{
    capsule::{AssignedAddress, Capsule, RequestedAddress},
    http3::Code,
    routes::IpRange,
    session::{CloseReason, Event, Packets, SendError},
};

use crate::loopback::{ends, ends_over, event, narrow_path, soon, tunnel};

async fn receive(packets: &Packets, count: usize) -> Vec<bytes::Bytes> {
    let mut received = Vec::new();
    while received.len() < count {
        soon(packets.recv_batch(&mut received)).await.unwrap();
    }
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_and_routes_reach_the_other_side() {
    let ends = ends().await;
    let (mut client, mut server) = tunnel(&ends).await;
    let wish = RequestedAddress { request_id: 1, prefix: "0.0.0.0/32".parse().unwrap() };
    client.control().request_addresses(vec![wish]).await.unwrap();
    assert_eq!(event(&mut server).await, Event::AddressesRequested(vec![wish]));

    let given = vec![
        AssignedAddress { request_id: 1, prefix: "10.99.0.2/32".parse().unwrap() },
        AssignedAddress::unrequested("fd99::2/128".parse().unwrap()),
    ];
    let control = server.control();
    control.assign_addresses(given.clone()).await.unwrap();
    assert_eq!(event(&mut client).await, Event::AddressesAssigned(given));

    let [one, two] = ["10.20.1.0/24", "10.20.0.0/24"].map(|text| IpRange::from_prefix(text.parse().unwrap()));
    control.advertise_routes(vec![one, two]).await.unwrap();
    let merged = IpRange::new(Ipv4Addr::new(10, 20, 0, 0).into(), Ipv4Addr::new(10, 20, 1, 255).into(), 0);
    assert_eq!(event(&mut client).await, Event::RoutesAdvertised(vec![merged.unwrap()]));

    control.assign_addresses(vec![]).await.unwrap();
    assert_eq!(event(&mut client).await, Event::AddressesAssigned(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_pass_both_ways_and_the_smallest_ipv6_mtu_fits() {
    let ends = ends().await;
    let (client, server) = tunnel(&ends).await;
    assert!(client.packets().max_packet_size() >= 1280);
    assert!(server.packets().max_packet_size() >= 1280);
    for (from, to) in [(client.packets(), server.packets()), (server.packets(), client.packets())] {
        for nth in 0..50u8 {
            from.send(&[nth; 1280]).unwrap();
        }
        let received = receive(&to, 50).await;
        for (nth, packet) in (0u8..).zip(&received) {
            assert_eq!(packet[..], [nth; 1280]);
        }
        assert_eq!(received.len(), 50);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packet_too_large_says_what_fits() {
    let ends = ends().await;
    let (client, _server) = tunnel(&ends).await;
    let Err(SendError::TooLarge { max }) = client.packets().send(&[0x45; 9000]) else {
        panic!("9000 bytes went through");
    };
    assert_eq!(max, client.packets().max_packet_size());
    client.packets().send(&vec![0x45; max]).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_in_capsules_are_packets() {
    let ends = ends().await;
    let serving = async {
        let incoming = m2m_tunnel::server::accept(ends.server.clone()).await.unwrap();
        incoming.accept().await.unwrap()
    };
    let asking = crate::misbehaviour::ask_by_hand(&ends.client);
    let (server, (_control, mut stream, _inbound)) = soon(async { tokio::join!(serving, asking) }).await;
    let mut capsule = Vec::new();
    Capsule::Datagram(bytes::Bytes::from_static(&[0, 0x45, 1, 2])).encode(&mut capsule);
    let mut frame = Vec::new();
    m2m_tunnel::http3::frame::write(0, &capsule, &mut frame);
    stream.write_all(&frame).await.unwrap();
    assert_eq!(receive(&server.packets(), 1).await, [[0x45, 1, 2][..].to_vec()]);
}

#[tokio::test(flavor = "multi_thread")]
async fn goaway_comes_before_the_end() {
    let ends = ends().await;
    let (mut client, mut server) = tunnel(&ends).await;
    server.control().go_away().await.unwrap();
    assert_eq!(event(&mut client).await, Event::GoAway);
    client.packets().send(&[0x45; 100]).unwrap();
    receive(&server.packets(), 1).await;
    client.control().go_away().await.unwrap();
    assert_eq!(event(&mut server).await, Event::GoAway);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_reason_of_a_close_reaches_the_other_side() {
    let ends = ends().await;
    let (mut client, mut server) = tunnel(&ends).await;
    let packets = client.packets();
    let waiting = tokio::spawn(async move { packets.recv_batch(&mut Vec::new()).await });
    server.close(Code::REQUEST_REJECTED, "certificate revoked");
    let expected = CloseReason::Peer { code: Code::REQUEST_REJECTED, reason: "certificate revoked".into() };
    assert_eq!(event(&mut client).await, Event::Closed(expected.clone()));
    assert_eq!(event(&mut client).await, Event::Closed(expected.clone()));
    assert_eq!(soon(waiting).await.unwrap(), Err(expected.clone()));
    assert_eq!(client.packets().send(&[0x45; 20]), Err(SendError::Closed(expected.clone())));
    assert_eq!(client.control().go_away().await, Err(expected));
    assert_eq!(event(&mut server).await, Event::Closed(CloseReason::Local));
}

#[tokio::test(flavor = "multi_thread")]
async fn dropping_a_session_closes_the_tunnel() {
    let ends = ends().await;
    let (client, mut server) = tunnel(&ends).await;
    let (packets, control) = (client.packets(), client.control());
    drop(client);
    let Event::Closed(CloseReason::Peer { code, .. }) = event(&mut server).await else {
        panic!("not closed by the peer");
    };
    assert_eq!(code, Code::NO_ERROR);
    assert_eq!(soon(control.closed()).await, CloseReason::Local);
    assert!(packets.send(&[0x45; 20]).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_outlives_a_change_of_address() {
    let ends = ends().await;
    let (client, server) = tunnel(&ends).await;
    let before = ends.server.remote_address();
    ends.client_endpoint.rebind(std::net::UdpSocket::bind("[::1]:0").unwrap()).unwrap();
    let sent = Arc::new(client.packets());
    let mut received = Vec::new();
    soon(async {
        // Packets sent while the path is validated may be lost.
        while received.is_empty() {
            sent.send(&[0x45; 64]).unwrap();
            let _ =
                tokio::time::timeout(std::time::Duration::from_millis(50), server.packets().recv_batch(&mut received))
                    .await;
        }
    })
    .await;
    assert_ne!(ends.server.remote_address(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_narrow_path_still_carries_small_packets() {
    let ends = ends_over(|server| narrow_path(server, 1252)).await;
    let (client, server) = tunnel(&ends).await;
    for (from, to) in [(client.packets(), server.packets()), (server.packets(), client.packets())] {
        soon(async {
            // Until the loss is understood the packets are too large for the path.
            while from.refresh_max_packet_size() >= 1252 {
                from.send(&[0x45; 1280]).unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        })
        .await;
        let max = from.max_packet_size();
        assert!(max >= 1100, "{max}");
        from.send(&vec![0x45; max]).unwrap();
        assert_eq!(receive(&to, 1).await[0].len(), max);
    }
}
