//! What an established tunnel carries, says and measures.

use std::time::Duration;

use bytes::Bytes;
use m2m_tunnel::{
    capsule::{AssignedAddress, RequestedAddress},
    http2::{Http2Tunnel, MAX_PACKET, Received, Receiver, Sender},
    http3::Code,
    routes::IpRange,
    session::{CloseReason, Event},
};

use crate::ends::{end, event, packets, soon, tunnel};

fn some_packets(count: usize, size: usize) -> Vec<Vec<u8>> {
    (0..count).map(|index| (0..size).map(|byte| (index * 31 + byte * 7) as u8).collect()).collect()
}

async fn send(sender: &mut Sender, packets: &[Vec<u8>]) {
    soon(sender.send_packets(packets.iter().map(Vec::as_slice))).await.unwrap();
}

async fn assert_arrive(receiver: &mut Receiver, sent: &[Vec<u8>]) {
    assert!(packets(receiver, sent.len()).await.iter().eq(sent));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_arrive_both_ways_in_order_and_unchanged() {
    let (client, server) = tunnel().await;
    let Http2Tunnel { sender: mut up, receiver: mut down_end, .. } = client;
    let Http2Tunnel { sender: mut down, receiver: mut up_end, .. } = server;
    let (there, back) = (some_packets(5000, 1400), some_packets(3000, 600));
    let sending = async { tokio::join!(send(&mut up, &there), send(&mut down, &back)) };
    let receiving = async { tokio::join!(assert_arrive(&mut up_end, &there), assert_arrive(&mut down_end, &back)) };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn a_batch_is_received_as_a_batch() {
    let (client, server) = tunnel().await;
    let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);
    let batch = some_packets(10, 1000);
    soon(sender.ready()).await.unwrap();
    assert_eq!(sender.try_send(&mut batch.iter().map(Vec::as_slice)), Ok(10));
    let mut received = Vec::new();
    assert_eq!(soon(receiver.recv(&mut received)).await, Ok(Received::Packets(10)));
    assert!(received.iter().eq(&batch));
}

#[tokio::test]
async fn every_size_passes_and_what_is_no_packet_does_not() {
    let (client, server) = tunnel().await;
    let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);
    let largest = vec![4; MAX_PACKET];
    let sent = [vec![1], vec![2; MAX_PACKET + 1], vec![3; 64], largest.clone()];
    send(&mut sender, &sent).await;
    assert_arrive(&mut receiver, &[vec![1], vec![3; 64], largest]).await;
}

#[tokio::test]
async fn what_is_said_comes_in_its_place_between_packets() {
    let (client, server) = tunnel().await;
    let Http2Tunnel { mut sender, receiver: mut client, control: asking, .. } = client;
    let Http2Tunnel { sender: _sender, receiver: mut server, control: telling, .. } = server;
    let wish = RequestedAddress { request_id: 1, prefix: "0.0.0.0/32".parse().unwrap() };
    send(&mut sender, &[vec![1]]).await;
    asking.request_addresses(vec![wish]).unwrap();
    send(&mut sender, &[vec![2]]).await;
    assert_eq!(packets(&mut server, 1).await, [vec![1]]);
    assert_eq!(event(&mut server).await, Event::AddressesRequested(vec![wish]));
    assert_eq!(packets(&mut server, 1).await, [vec![2]]);

    let assigned = AssignedAddress { request_id: 1, prefix: "10.99.0.2/32".parse().unwrap() };
    let route = |prefix: &str| IpRange::from_prefix(prefix.parse().unwrap());
    telling.assign_addresses(vec![assigned]).unwrap();
    telling.advertise_routes(vec![route("10.30.0.0/16"), route("10.20.0.0/16")]).unwrap();
    assert_eq!(event(&mut client).await, Event::AddressesAssigned(vec![assigned]));
    let ordered = vec![route("10.20.0.0/16"), route("10.30.0.0/16")];
    assert_eq!(event(&mut client).await, Event::RoutesAdvertised(ordered));
}

#[tokio::test]
async fn a_dropped_recv_loses_nothing() {
    let (client, server) = tunnel().await;
    let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);
    let sent = some_packets(200, 1200);
    let sending = tokio::spawn({
        let sent = sent.clone();
        async move {
            for packet in &sent {
                sender.send_packets([packet.as_slice()]).await.unwrap();
            }
            sender
        }
    });
    let mut received = Vec::new();
    soon(async {
        while received.len() < sent.len() {
            tokio::select! {
                biased;
                outcome = receiver.recv(&mut received) => { outcome.unwrap(); }
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    assert!(received.iter().eq(&sent));
    soon(sending).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn goaway_is_told_and_the_tunnel_goes_on() {
    let (client, server) = tunnel().await;
    let Http2Tunnel { sender: mut up, receiver: mut client, control: of_client, mut pinger } = client;
    let Http2Tunnel { sender: mut down, receiver: mut server, control: of_server, .. } = server;
    of_client.go_away().unwrap();
    of_server.go_away().unwrap();
    of_server.go_away().unwrap();
    assert_eq!(event(&mut client).await, Event::GoAway);
    // Long enough for the second GOAWAY, which comes when the PING that goes with the first is answered
    for _ in 0..3 {
        soon(pinger.ping()).await.unwrap();
        send(&mut up, &[vec![1; 100]]).await;
        assert_arrive(&mut server, &[vec![1; 100]]).await;
        send(&mut down, &[vec![2; 100]]).await;
        assert_arrive(&mut client, &[vec![2; 100]]).await;
    }
    of_server.close(Code::NO_ERROR, "moved");
    assert_eq!(end(&mut client).await, CloseReason::Peer { code: Code::NO_ERROR, reason: String::new() });
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_closes_with_its_code() {
    for code in [Code::EXCESSIVE_LOAD, Code::NO_ERROR, Code::REQUEST_CANCELLED] {
        for from_client in [true, false] {
            let (client, server) = tunnel().await;
            let (closing, told) = if from_client { (client, server) } else { (server, client) };
            let Http2Tunnel { mut sender, mut receiver, control, .. } = closing;
            let mut told = told;
            control.close(code, "enough");
            control.close(Code::INTERNAL_ERROR, "the first reason stays");
            let peer = CloseReason::Peer { code, reason: String::new() };
            assert_eq!(end(&mut told.receiver).await, peer, "client: {from_client}");
            assert_eq!(end(&mut told.receiver).await, peer);
            assert_eq!(soon(told.sender.ready()).await, Err(peer.clone()));
            assert_eq!(told.sender.try_send(&mut [[1]].into_iter()), Err(peer.clone()));
            assert_eq!(told.control.assign_addresses(vec![]), Err(peer.clone()));
            assert_eq!(soon(told.pinger.ping()).await, Err(peer.clone()));
            assert_eq!(told.control.go_away(), Err(peer.clone()));
            assert_eq!(told.control.close_reason(), Some(peer.clone()));
            assert_eq!(soon(told.control.closed()).await, peer);
            assert_eq!(end(&mut receiver).await, CloseReason::Local);
            assert_eq!(soon(sender.ready()).await, Err(CloseReason::Local));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_half_closes_the_tunnel() {
    for dropped in 0..3 {
        let (client, server) = tunnel().await;
        let Http2Tunnel { sender: _sender, mut receiver, .. } = server;
        let Http2Tunnel { sender, receiver: client_receiver, control, .. } = client;
        let (mut sender, mut client_receiver) = (Some(sender), Some(client_receiver));
        if dropped != 1 {
            sender = None;
        }
        if dropped != 0 {
            client_receiver = None;
        }
        let expected = CloseReason::Peer { code: Code::NO_ERROR, reason: String::new() };
        assert_eq!(end(&mut receiver).await, expected, "{dropped}");
        assert_eq!(soon(control.closed()).await, CloseReason::Local);
        drop((sender, client_receiver));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_sender_learns_of_the_end() {
    let (client, server) = tunnel().await;
    let Http2Tunnel { mut sender, receiver: _receiver, mut pinger, .. } = client;
    let flood = tokio::spawn(async move {
        let packet = vec![0; 1400];
        loop {
            if let Err(reason) = sender.send_packets([packet.as_slice()]).await {
                return reason;
            }
        }
    });
    // Nobody receives at the other end, so the sender has to wait sooner or later.
    soon(pinger.ping()).await.unwrap();
    drop(server);
    assert_eq!(soon(flood).await.unwrap(), CloseReason::Peer { code: Code::NO_ERROR, reason: String::new() });
}

#[tokio::test(flavor = "multi_thread")]
async fn ping_measures_the_round_trip_and_survives_being_given_up() {
    let delay = Duration::from_millis(30);
    let (mut client, mut server) = {
        let ((near, mut near_relay), (mut far_relay, far)) = (crate::ends::pipe(), crate::ends::pipe());
        tokio::spawn(async move { delayed(delay, &mut near_relay, &mut far_relay).await });
        crate::ends::tunnel_over(near, far).await
    };
    let round_trip = soon(client.pinger.ping()).await.unwrap();
    assert!(round_trip >= delay && round_trip < delay * 20, "{round_trip:?}");
    let given_up = tokio::time::timeout(delay / 3, client.pinger.ping()).await;
    assert!(given_up.is_err());
    soon(client.pinger.ping()).await.unwrap();
    let (there, back) = soon(async { tokio::join!(client.pinger.ping(), server.pinger.ping()) }).await;
    assert!(there.unwrap() >= delay && back.unwrap() >= delay);
}

/// Carries bytes between two streams, those of the one way after a delay.
async fn delayed(delay: Duration, near: &mut tokio::io::DuplexStream, far: &mut tokio::io::DuplexStream) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, split};
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (split(near), split(far));
    let there = async {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let Ok(count @ 1..) = near_in.read(&mut buffer).await else { return };
            tokio::time::sleep(delay).await;
            far_out.write_all(&buffer[..count]).await.unwrap();
        }
    };
    tokio::join!(there, copy(&mut far_in, &mut near_out)).1.unwrap();
}

#[tokio::test]
async fn packets_are_slices_of_what_arrived() {
    let (client, server) = tunnel().await;
    let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);
    let batch = some_packets(2, 500);
    sender.try_send(&mut batch.iter().map(Vec::as_slice)).unwrap();
    let received: Vec<Bytes> = packets(&mut receiver, 2).await;
    // type, length of two bytes and context id lie between them
    assert_eq!(received[0].as_ptr().wrapping_add(500 + 4), received[1].as_ptr());
}
