#![allow(clippy::unwrap_used)]
use std::collections::HashMap;

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*, sample::Index};

use super::*;
use crate::offload::{
    checksum::updated,
    layout::CWR,
    samples::{Sample, Transport as Of, is_right, pattern},
    segment::Segments,
};

/// What is written for each group, with the number of its packets.
fn coalesce(coalescer: &mut Coalescer, batch: &[Vec<u8>]) -> Vec<(usize, Vec<u8>)> {
    for packet in batch {
        coalescer.push(Bytes::copy_from_slice(packet));
    }
    assert_eq!(coalescer.len(), batch.len());
    let written = coalescer
        .groups()
        .map(|group| {
            let written = group.gather(|slices| {
                assert!(slices.len() <= 1 + MAX_TCP);
                slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<u8>>()
            });
            (group.packets(), written)
        })
        .collect();
    coalescer.clear();
    assert!(coalescer.is_empty());
    written
}

fn sizes(batch: &[Vec<u8>]) -> Vec<usize> {
    coalesce(&mut Coalescer::new(true), batch).into_iter().map(|(packets, _)| packets).collect()
}

fn cut(read: &[u8]) -> Vec<Vec<u8>> {
    let mut segments = Segments::new(read).unwrap();
    let mut packets = Vec::new();
    while segments.remaining() > 0 {
        let mut packet = BytesMut::new();
        segments.next_into(&mut packet);
        packets.push(packet.to_vec());
    }
    packets
}

/// Segments of a TCP stream that follow each other.
fn stream(v6: bool, lengths: &[usize]) -> Vec<Sample> {
    let mut sequence = 0xffff_f000_u32;
    let mut row = Vec::new();
    for (nth, length) in lengths.iter().enumerate() {
        let mut sample = Sample::tcp(v6, sequence, &pattern(*length));
        sample.identification = 0xfffe_u16.wrapping_add(nth as u16);
        row.push(sample);
        sequence = sequence.wrapping_add(*length as u32);
    }
    row
}

fn built(samples: &[Sample]) -> Vec<Vec<u8>> {
    samples.iter().map(Sample::build).collect()
}

fn add_flags(sample: &mut Sample, more: u8) {
    let Of::Tcp { flags, .. } = &mut sample.transport else { return };
    *flags |= more;
}

#[test]
fn segments_that_follow_each_other_are_one_group() {
    for v6 in [false, true] {
        let mut row = stream(v6, &[1000, 1000, 1000, 500]);
        add_flags(&mut row[3], PSH | FIN);
        let batch = built(&row);
        let groups = coalesce(&mut Coalescer::new(false), &batch);
        assert_eq!(groups.len(), 1);
        assert_eq!(cut(&groups[0].1), batch);
        let mut whole =
            Sample { payload: row.iter().flat_map(|part| part.payload.clone()).collect(), ..row[0].clone() };
        add_flags(&mut whole, PSH | FIN);
        assert_eq!(groups[0].1, whole.uncut(1000));
    }
}

#[test]
fn datagrams_of_a_size_are_one_group_where_the_device_takes_it() {
    for v6 in [false, true] {
        let batch: Vec<_> = [100usize, 100, 60, 100]
            .iter()
            .enumerate()
            .map(|(nth, length)| {
                let identification = 9 + nth as u16;
                Sample { identification, ..Sample::udp(v6, &pattern(*length)) }.build()
            })
            .collect();
        let groups = coalesce(&mut Coalescer::new(true), &batch);
        assert_eq!(groups.iter().map(|group| group.0).collect::<Vec<_>>(), [3, 1]);
        assert_eq!(cut(&groups[0].1), batch[..3]);
        assert_eq!(coalesce(&mut Coalescer::new(false), &batch).len(), 4);
    }
    // Without a checksum there is none to complete.
    let mut bare = Sample::udp(false, b"no checksum").build();
    bare[26..28].fill(0);
    assert_eq!(sizes(&[bare.clone(), bare]), [1, 1]);
}

#[test]
fn the_end_of_a_push_ends_a_group() {
    for flag in [PSH, FIN] {
        let mut row = stream(false, &[100; 5]);
        add_flags(&mut row[2], flag);
        assert_eq!(sizes(&built(&row)), [3, 2]);
        add_flags(&mut row[0], flag);
        assert_eq!(sizes(&built(&row)), [1, 2, 2]);
    }
    assert_eq!(sizes(&built(&stream(false, &[100, 100, 50, 50, 100]))), [3, 1, 1]);
}

/// What differs, and how it is made to.
type Change = (&'static str, fn(&mut Sample));

#[test]
fn what_differs_is_not_merged() {
    let changes: [Change; 15] = [
        ("time to live", |sample| sample.ttl = 63),
        ("traffic class", |sample| sample.tos = 3),
        ("port", |sample| sample.port = 4001),
        ("don't fragment", |sample| sample.dont_fragment = sample.v6),
        ("identification", |sample| sample.identification = if sample.v6 { 0xffff } else { 3 }),
        ("SYN", |sample| add_flags(sample, 0x02)),
        ("RST", |sample| add_flags(sample, 0x04)),
        ("URG", |sample| add_flags(sample, 0x20)),
        ("ECE", |sample| add_flags(sample, ECE)),
        ("CWR", |sample| add_flags(sample, CWR)),
        ("a gap", |sample| add_sequence(sample, 1)),
        ("an overlap", |sample| add_sequence(sample, u32::MAX)),
        ("no payload", |sample| sample.payload.clear()),
        ("more payload", |sample| sample.payload.push(1)),
        ("options", |sample| {
            let Of::Tcp { options, .. } = &mut sample.transport else { return };
            options[7] += 1;
        }),
    ];
    for v6 in [false, true] {
        for (name, change) in changes {
            let mut row = stream(v6, &[100; 4]);
            let before = row[1].clone().build();
            change(&mut row[1]);
            let batch = built(&row);
            if batch[1] == before {
                assert!(v6, "{name} changes nothing");
                continue;
            }
            let groups = sizes(&batch);
            // Another port is another flow, in which the third continues nothing either.
            assert!(groups[0] == 1 && groups[1] == 1, "{name}: {groups:?}");
        }
        let mut row = stream(v6, &[100; 2]);
        row[1].v6 = !v6;
        assert_eq!(sizes(&built(&row)), [1, 1]);
    }
}

fn add_sequence(sample: &mut Sample, more: u32) {
    let Of::Tcp { sequence, .. } = &mut sample.transport else { return };
    *sequence = sequence.wrapping_add(more);
}

#[test]
fn windows_acknowledgements_and_reserved_bits_must_be_the_same() {
    for at in [20 + 8, 20 + TCP_DATA_OFFSET, 20 + 14, 20 + 18] {
        let mut batch = built(&stream(false, &[100; 2]));
        batch[1][at] ^= 1;
        // The checksum is made right again.
        let even = at & !1;
        let checksum = word(&batch[1], 20 + TCP_CHECKSUM);
        let checksum = updated(checksum, word(&batch[0], even), word(&batch[1], even));
        put_word(&mut batch[1], 20 + TCP_CHECKSUM, checksum);
        assert!(is_right(&batch[1]));
        assert_eq!(sizes(&batch), [1, 1], "{at}");
    }
}

#[test]
fn broken_packets_stay_alone() {
    for v6 in [false, true] {
        for broken in 0..3 {
            let mut batch = built(&stream(v6, &[100; 3]));
            let last = batch[broken].len() - 1;
            batch[broken][last] ^= 0x10;
            let groups = coalesce(&mut Coalescer::new(true), &batch);
            let sizes: Vec<_> = groups.iter().map(|group| group.0).collect();
            assert_eq!(sizes, [vec![1, 2], vec![1, 1, 1], vec![2, 1]][broken]);
            assert!(groups.iter().any(|(_, written)| written[HEADER_LENGTH..] == batch[broken]));
        }
    }
    let mut batch = built(&stream(false, &[100; 2]));
    batch[1][10] ^= 1;
    assert_eq!(sizes(&batch), [1, 1]);
}

#[test]
fn a_row_of_equal_identifications_is_merged_where_they_mean_nothing() {
    let mut row = stream(false, &[100; 4]);
    row.iter_mut().for_each(|sample| sample.identification = 0);
    assert_eq!(sizes(&built(&row)), [4]);
    row[2].identification = 1;
    assert_eq!(sizes(&built(&row)), [2, 1, 1]);
    row.iter_mut().for_each(|sample| (sample.identification, sample.dont_fragment) = (0, false));
    assert_eq!(sizes(&built(&row)), [1, 1, 1, 1]);
}

#[test]
fn groups_are_bounded() {
    assert_eq!(sizes(&built(&stream(true, &[9000; 10]))), [7, 3]);
    assert_eq!(sizes(&built(&stream(true, &[10; 300]))), [MAX_TCP, MAX_TCP, 300 - 2 * MAX_TCP]);
    let row = vec![Sample::udp(true, &[1; 10]).build(); 100];
    assert_eq!(sizes(&row), [MAX_UDP, 100 - MAX_UDP]);
}

#[test]
fn what_may_be_of_any_flow_overtakes_none() {
    let mut row = built(&stream(false, &[100; 4]));
    let mut fragment = row[3].clone();
    fragment[7] = 1;
    row.insert(2, fragment);
    assert_eq!(sizes(&row), [2, 1, 2]);
    // What is of another protocol has nothing to do with it.
    row[2][9] = 1;
    assert_eq!(sizes(&row), [4, 1]);
}

#[test]
fn many_flows_are_merged_at_once() {
    let mut batch = Vec::new();
    for nth in 0..4 {
        for port in 0..OPEN_FLOWS as u16 {
            let row = stream(false, &[100; 4]);
            batch.push(Sample { port, ..row[nth].clone() }.build());
        }
    }
    assert_eq!(sizes(&batch), [4; OPEN_FLOWS]);
}

/// A packet of a batch: its flow, how it differs from the one that the flow's stream would bring, and where to break it.
type Step = (u16, u8, Index);

fn batch_of(v6: bool, steps: &[Step]) -> Vec<Vec<u8>> {
    let mut streams: HashMap<u16, (u32, u16)> = HashMap::new();
    let mut batch = Vec::new();
    for (flow, change, place) in steps {
        let (sequence, identification) = streams.entry(*flow).or_insert((*flow as u32 * 1000, 65530));
        let length = if *change == 1 { 30 } else { 100 };
        let mut sample = if flow % 3 == 0 {
            Sample::udp(v6, &pattern(length))
        } else {
            Sample::tcp(v6, *sequence, &pattern(length))
        };
        sample.port = *flow;
        sample.identification = *identification;
        match change {
            2 => add_flags(&mut sample, PSH),
            3 => add_flags(&mut sample, 0x02),
            4 => add_flags(&mut sample, CWR),
            5 => sample.payload.clear(),
            6 => sample.tos = 0,
            7 => add_sequence(&mut sample, 1),
            8 => sample.dont_fragment = false,
            _ => {}
        }
        *identification = identification.wrapping_add(1);
        *sequence = sequence.wrapping_add(sample.payload.len() as u32);
        let mut packet = sample.build();
        if *change == 9 {
            let at = place.index(packet.len());
            packet[at] ^= 0x04;
        }
        batch.push(packet);
    }
    batch
}

/// By protocol, addresses and ports.
fn by_flow(v6: bool, packets: impl IntoIterator<Item = Vec<u8>>) -> HashMap<(u8, Vec<u8>), Vec<Vec<u8>>> {
    let mut flows: HashMap<_, Vec<_>> = HashMap::new();
    for packet in packets {
        let (protocol, range) = if v6 { (6, 8..44) } else { (9, 12..24) };
        flows.entry((packet[protocol], packet[range].to_vec())).or_default().push(packet);
    }
    flows
}

proptest! {
    #[test]
    fn cutting_brings_back_each_flow_byte_for_byte(
        v6: bool,
        batches in vec(vec((0u16..6, prop_oneof![6 => Just(0u8), 3 => 1u8..10], any::<Index>()), 0..80), 1..3),
    ) {
        let mut coalescer = Coalescer::new(true);
        for steps in batches {
            let batch = batch_of(v6, &steps);
            let mut back = Vec::new();
            for (packets, written) in coalesce(&mut coalescer, &batch) {
                prop_assert!(written.len() <= HEADER_LENGTH + MAX_LENGTH);
                if packets == 1 {
                    prop_assert_eq!(&written[..HEADER_LENGTH], &[0; HEADER_LENGTH]);
                    back.push(written[HEADER_LENGTH..].to_vec());
                    continue;
                }
                let cut = cut(&written);
                prop_assert_eq!(cut.len(), packets);
                prop_assert!(cut.iter().all(|packet| is_right(packet)));
                back.extend(cut);
            }
            prop_assert_eq!(by_flow(v6, back), by_flow(v6, batch));
        }
    }

    #[test]
    fn any_bytes_do_no_harm(batch in vec(vec(any::<u8>(), 0..100), 0..20)) {
        let written = coalesce(&mut Coalescer::new(true), &batch);
        prop_assert_eq!(written.iter().map(|(packets, _)| packets).sum::<usize>(), batch.len());
    }

    #[test]
    fn any_changes_do_no_harm(v6: bool, changes in vec((0usize..6, 0usize..100, any::<u8>()), 1..8)) {
        let mut batch = built(&stream(v6, &[50; 6]));
        for (nth, at, byte) in changes {
            if let Some(place) = batch[nth].get_mut(at) {
                *place = byte;
            }
        }
        let written = coalesce(&mut Coalescer::new(true), &batch);
        prop_assert_eq!(written.iter().map(|(packets, _)| packets).sum::<usize>(), batch.len());
    }
}
