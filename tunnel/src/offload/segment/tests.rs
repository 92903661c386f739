#![allow(clippy::unwrap_used)]
use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::offload::{
    layout::ACK,
    samples::{Sample, Transport as Of, is_right, pattern, read},
};

fn cut(read: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut segments = Segments::new(read)?;
    let (count, total) = (segments.remaining(), segments.total_length());
    let mut out = BytesMut::from(&b"before"[..]);
    let mut packets = Vec::new();
    while let Some(length) = segments.next_into(&mut out) {
        packets.push(out[out.len() - length..].to_vec());
    }
    assert_eq!(segments.next_into(&mut out), None);
    assert_eq!((packets.len(), out.len()), (count, "before".len() + total));
    Ok(packets)
}

#[test]
fn tcp_is_cut_as_linux_does_it() {
    for v6 in [false, true] {
        let payload = pattern(3000);
        let mut uncut = Sample::tcp(v6, 0xffff_fc00, &payload);
        let Of::Tcp { flags, options, .. } = uncut.transport else { unreachable!() };
        assert_eq!(flags, ACK);
        uncut.transport = Of::Tcp { sequence: 0xffff_fc00, flags: ACK | CWR | PSH | FIN, options: options.clone() };
        let expected: Vec<_> = [(0, ACK | CWR), (1, ACK), (2, ACK | PSH | FIN)]
            .into_iter()
            .map(|(nth, flags)| {
                let part = &payload[nth * 1400..(nth * 1400 + 1400).min(3000)];
                let sequence = 0xffff_fc00_u32.wrapping_add(nth as u32 * 1400);
                let mut packet = Sample::tcp(v6, 0, part);
                packet.transport = Of::Tcp { sequence, flags, options: options.clone() };
                packet.identification = 0xfffe_u16.wrapping_add(nth as u16);
                packet.build()
            })
            .collect();
        assert!(expected.iter().all(|packet| is_right(packet)));
        assert_eq!(cut(&uncut.uncut(1400)).unwrap(), expected);
    }
}

#[test]
fn udp_is_cut_as_linux_does_it() {
    for v6 in [false, true] {
        let payload = pattern(2500);
        let expected: Vec<_> = payload
            .chunks(1000)
            .zip([0xfffe, 0xffff, 0])
            .map(|(part, identification)| Sample { identification, ..Sample::udp(v6, part) }.build())
            .collect();
        assert_eq!(cut(&Sample::udp(v6, &payload).uncut(1000)).unwrap(), expected);
    }
}

#[test]
fn small_packets_with_a_type_stay_whole() {
    for sample in [Sample::tcp(false, 1, b"small"), Sample::udp(true, b"small"), Sample::tcp(true, 1, b"")] {
        assert_eq!(cut(&sample.uncut(1000)).unwrap(), [sample.build()]);
    }
}

#[test]
fn checksums_are_completed() {
    for sample in [Sample::udp(false, b"checksum!"), Sample::udp(true, b"x"), Sample::tcp(true, 1, b"")] {
        let (packet, start, at) = sample.build_incomplete();
        let partial = Some(Partial { start: start as u16, offset: at as u16 });
        let header = VnetHeader { partial, ..VnetHeader::default() };
        assert_eq!(cut(&read(&header, &packet)).unwrap(), [sample.build()]);
    }
}

#[test]
fn a_checksum_of_zero_is_not_written_for_udp() {
    // The last word brings the sum to its end.
    let unfinished = Sample::udp(false, &[0, 0]).build();
    let rest = [unfinished[26], unfinished[27]];
    let sample = Sample::udp(false, &rest);
    let (packet, start, at) = sample.build_incomplete();
    let partial = Some(Partial { start: start as u16, offset: at as u16 });
    let header = VnetHeader { partial, ..VnetHeader::default() };
    for read in [read(&header, &packet), sample.uncut(100)] {
        assert_eq!(cut(&read).unwrap()[0][26..28], [0xff, 0xff]);
    }
}

#[test]
fn complete_packets_are_left_as_they_are() {
    for packet in [Sample::tcp(false, 5, b"abc").build(), Sample::udp(true, b"abc").build()] {
        assert_eq!(cut(&read(&VnetHeader::default(), &packet)).unwrap(), [packet]);
    }
}

#[test]
fn extension_headers_and_options_are_in_each_segment() {
    let sample = Sample::tcp(true, 1, &pattern(100));
    let (mut packet, start, _) = sample.build_incomplete();
    // Hop-by-hop options: padding.
    packet.splice(40..40, [TCP, 0, 1, 4, 0, 0, 0, 0]);
    packet[5] += 8;
    packet[6] = 0;
    let partial = Some(Partial { start: start as u16 + 8, offset: 16 });
    let header = VnetHeader { gso: Gso::TcpV6, gso_size: 60, partial, ..VnetHeader::default() };
    let packets = cut(&read(&header, &packet)).unwrap();
    assert_eq!(packets.len(), 2);
    for mut packet in packets {
        assert_eq!(packet[40..48], [TCP, 0, 1, 4, 0, 0, 0, 0]);
        packet.drain(40..48);
        packet[5] -= 8;
        packet[6] = TCP;
        assert!(is_right(&packet));
    }

    let (mut packet, start, _) = Sample::tcp(false, 1, &pattern(100)).build_incomplete();
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[3] += 4;
    let partial = Some(Partial { start: start as u16 + 4, offset: 16 });
    let header = VnetHeader { gso: Gso::TcpV4, gso_size: 60, partial, ..VnetHeader::default() };
    let packets = cut(&read(&header, &packet)).unwrap();
    assert_eq!(packets.len(), 2);
    for packet in packets {
        assert_eq!(packet[20..24], [1, 1, 1, 0]);
        assert!(Sum::of(&packet[..24]).is_intact());
        let pseudo = Sum::of_pseudo_header(&packet[12..20], TCP, packet.len() - 24);
        assert!((pseudo + Sum::of(&packet[24..])).is_intact());
    }
}

/// A good header for `packet`, changed.
fn with(packet: &[u8], change: impl FnOnce(&mut VnetHeader)) -> Vec<u8> {
    let partial = Some(Partial { start: 20, offset: 16 });
    let mut header = VnetHeader { gso: Gso::TcpV4, gso_size: 10, partial, ..VnetHeader::default() };
    change(&mut header);
    read(&header, packet)
}

#[test]
fn what_does_not_match_is_refused() {
    let (packet, ..) = Sample::tcp(false, 1, &pattern(100)).build_incomplete();
    assert_eq!(cut(&with(&packet, |_| {})).unwrap().len(), 10);
    assert_eq!(cut(&[0; 9]), Err(Malformed::Short(9)));
    assert_eq!(cut(&[0; 10]), Err(Malformed::NotIp));
    assert_eq!(cut(&with(&packet[..99], |_| {})), Err(Malformed::NotIp));
    assert_eq!(cut(&with(&packet, |header| header.gso_size = 0)), Err(Malformed::GsoSize));
    assert_eq!(cut(&with(&packet, |header| header.partial = None)), Err(Malformed::NoChecksum));
    for gso in [Gso::TcpV6, Gso::Udp] {
        assert_eq!(cut(&with(&packet, |header| header.gso = gso)), Err(Malformed::Transport));
    }
    for (gso, start, offset) in
        [(Gso::TcpV4, 24, 16), (Gso::TcpV4, 20, 6), (Gso::None, 19, 16), (Gso::None, 20, 15), (Gso::None, 150, 2)]
    {
        let read = with(&packet, |header| {
            header.gso = gso;
            header.partial = Some(Partial { start, offset });
        });
        assert_eq!(cut(&read), Err(Malformed::Checksum { start, offset }));
    }
    let mut unknown = with(&packet, |_| {});
    unknown[1] = 3;
    assert_eq!(cut(&unknown), Err(Malformed::GsoType(3)));

    let mut broken = packet.clone();
    for data_offset in [0x40, 0xf0] {
        broken[20 + TCP_DATA_OFFSET] = data_offset;
        let read = with(&broken, |_| {});
        assert_eq!(cut(&read).is_err(), data_offset == 0x40, "{data_offset:x}");
    }
    for (at, byte) in [(6, 0x20), (7, 1)] {
        let mut fragment = packet.clone();
        fragment[at] = byte;
        assert_eq!(cut(&with(&fragment, |_| {})), Err(Malformed::Transport));
    }
    let short = Sample::tcp(false, 1, b"").build();
    let mut short = short[..35].to_vec();
    short[3] = 35;
    assert_eq!(cut(&with(&short, |_| {})), Err(Malformed::Transport));
}

fn any_sample() -> impl Strategy<Value = Sample> {
    (any::<bool>(), any::<bool>(), any::<u32>(), proptest::collection::vec(any::<u8>(), 0..600)).prop_map(
        |(v6, tcp, sequence, payload)| {
            if tcp { Sample::tcp(v6, sequence, &payload) } else { Sample::udp(v6, &payload) }
        },
    )
}

proptest! {
    #[test]
    fn segments_are_whole_packets_with_the_payload_of_the_uncut(sample in any_sample(), size in 1u16..700) {
        let packets = cut(&sample.uncut(size)).unwrap();
        prop_assert_eq!(packets.len(), sample.payload.len().div_ceil(usize::from(size)).max(1));
        let headers = packets[0].len() - sample.payload.len().min(usize::from(size));
        let mut payload = Vec::new();
        for packet in packets {
            prop_assert!(Header::parse(&packet).is_some());
            prop_assert!(is_right(&packet));
            payload.extend_from_slice(&packet[headers..]);
        }
        prop_assert_eq!(payload, sample.payload);
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = cut(&bytes);
    }

    #[test]
    fn any_changes_do_no_harm(sample in any_sample(), size in any::<u16>(), changes in proptest::collection::vec((0usize..110, any::<u8>()), 1..6)) {
        let mut read = sample.uncut(size);
        for (at, byte) in changes {
            if let Some(place) = read.get_mut(at) {
                *place = byte;
            }
        }
        if let Ok(packets) = cut(&read) {
            for packet in packets {
                prop_assert!(Header::parse(&packet).is_some());
            }
        }
    }
}
