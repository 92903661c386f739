//! However packets are batched and the stream is cut, the same arrives.

use bytes::Bytes;
use m2m_tunnel::{
    capsule::{AssignedAddress, Capsule},
    http2::{Http2Tunnel, Received},
    session::Event,
};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, copy, split};

use crate::ends::{WithPlayedClient, soon, tunnel_over, with_played_client};

#[derive(Debug, Clone, PartialEq)]
enum Item {
    Packet(Vec<u8>),
    Addresses(Vec<AssignedAddress>),
    /// A capsule that nobody knows, or a datagram of a context that nobody knows.
    Noise(Vec<u8>),
}

fn any_item() -> impl Strategy<Value = Item> {
    let address = any::<u32>().prop_map(|bits| {
        AssignedAddress::unrequested(ipnet::IpNet::new(std::net::Ipv4Addr::from_bits(bits).into(), 32).unwrap())
    });
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 1..1500).prop_map(Item::Packet),
        1 => proptest::collection::vec(address, 0..4).prop_map(Item::Addresses),
        1 => Just(Item::Noise(vec![0x40, 0x41, 2, 9, 9])),
        1 => Just(Item::Noise(vec![0, 3, 2, 9, 9])),
        1 => Just(Item::Noise(vec![0x1f, 0])),
    ]
}

fn encode(items: &[Item]) -> Bytes {
    let mut out = Vec::new();
    for item in items {
        match item {
            Item::Packet(packet) => Capsule::encode_packet(packet, &mut out),
            Item::Addresses(addresses) => Capsule::AddressAssign(addresses.clone()).encode(&mut out),
            Item::Noise(bytes) => out.extend_from_slice(bytes),
        }
    }
    out.into()
}

fn run(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(soon(future));
}

/// Carries bytes in pieces of these sizes.
async fn cut(near: DuplexStream, far: DuplexStream, sizes: Vec<usize>) {
    let (mut near_in, mut near_out) = split(near);
    let (mut far_in, mut far_out) = split(far);
    let there = async {
        for size in sizes.into_iter().cycle() {
            let mut buffer = vec![0; size];
            let Ok(count @ 1..) = near_in.read(&mut buffer).await else { return };
            if far_out.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::join!(there, copy(&mut far_in, &mut near_out));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn capsules_in_frames_of_any_size(
        items in proptest::collection::vec(any_item(), 0..30),
        sizes in proptest::collection::vec(1..2000usize, 1..10),
    ) {
        run(async move {
            let WithPlayedClient { tunnel, mut outbound, requests: _requests, inbound: _inbound, .. } = with_played_client().await;
            let mut rest = encode(&items);
            for size in sizes.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                outbound.send_data(rest.split_to(size.min(rest.len())), false).unwrap();
            }
            let Http2Tunnel { sender: _sender, mut receiver, .. } = tunnel;
            let mut expected = items;
            expected.retain(|item| !matches!(item, Item::Noise(_)));
            let (mut found, mut batch) = (Vec::new(), Vec::new());
            while found.len() < expected.len() {
                match receiver.recv(&mut batch).await.unwrap() {
                    Received::Packets(count) => {
                        assert_eq!(count, batch.len());
                        found.extend(batch.drain(..).map(|packet| Item::Packet(packet.into())));
                    }
                    Received::Event(Event::AddressesAssigned(addresses)) => found.push(Item::Addresses(addresses)),
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(found, expected);
        });
    }

    #[test]
    fn batches_of_any_size_over_a_stream_cut_anywhere(
        batches in proptest::collection::vec(
            proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..1500), 1..20), 1..8),
        sizes in proptest::collection::vec(1..5000usize, 1..10),
    ) {
        run(async move {
            let ((near, near_relay), (far_relay, far)) = (tokio::io::duplex(3000), tokio::io::duplex(3000));
            tokio::spawn(cut(near_relay, far_relay, sizes));
            let (client, server) = tunnel_over(near, far).await;
            let (mut sender, mut receiver) = (client.sender, server.receiver);
    let _rest = (client.receiver, server.sender);
            let expected = batches.concat();
            let sending = async {
                for batch in &batches {
                    sender.send_packets(batch.iter().map(Vec::as_slice)).await.unwrap();
                }
            };
            let receiving = crate::ends::packets(&mut receiver, expected.len());
            let ((), found) = tokio::join!(sending, receiving);
            assert!(found.iter().eq(&expected));
        });
    }
}
