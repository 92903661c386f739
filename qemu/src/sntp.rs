use std::{
    io,
    net::{IpAddr, UdpSocket},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::{LabError, Node, Result, service::Service};

/// Answers NTP clients with the time of this machine, on one address of a node: an answer that came from another address
/// of it would be none.
pub(crate) fn serve(node: &Node, address: IpAddr) -> Result<Service> {
    let socket = node.within(|| UdpSocket::bind((address, 123)))?;
    let socket = socket.map_err(LabError::io("open the NTP server's socket"))?;
    socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(LabError::io("set a timeout"))?;
    Ok(Service::start("sntp", move || {
        let mut request = [0; 128];
        let (length, client) = socket.recv_from(&mut request)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?;
        if let Some(answer) = answer(&request[..length], now) {
            socket.send_to(&answer, client)?;
        }
        Ok(())
    }))
}

const PACKET: usize = 48;
const MODE_CLIENT: u8 = 3;
const MODE_SERVER: u8 = 4;
/// Seconds from 1900, the NTP era, to 1970.
const NTP_TO_UNIX: u64 = 2_208_988_800;

/// The server's packet for a client's (RFC 5905, section 7.3; RFC 4330, section 6). None when it is not a request.
fn answer(request: &[u8], now: Duration) -> Option<[u8; PACKET]> {
    let request: &[u8; PACKET] = request.get(..PACKET)?.try_into().ok()?;
    let version = (request[0] >> 3) & 0b111;
    if request[0] & 0b111 != MODE_CLIENT || !(1..=4).contains(&version) {
        return None;
    }
    let time = timestamp(now);
    let mut answer = [0; PACKET];
    answer[0] = version << 3 | MODE_SERVER;
    answer[1] = 2; // stratum: one above a reference clock
    answer[2] = request[2];
    answer[3] = (-20_i8).cast_unsigned(); // precision, about a microsecond
    answer[8..12].copy_from_slice(&0x0000_0010_u32.to_be_bytes()); // root dispersion
    answer[12..16].copy_from_slice(b"LAB\0");
    answer[16..24].copy_from_slice(&time);
    answer[24..32].copy_from_slice(&request[40..48]); // origin: the client's transmit timestamp
    answer[32..40].copy_from_slice(&time);
    answer[40..48].copy_from_slice(&time);
    Some(answer)
}

/// NTP timestamp, era 0: 32 bits of seconds and 32 bits of fraction.
fn timestamp(since_1970: Duration) -> [u8; 8] {
    let seconds = since_1970.as_secs() + NTP_TO_UNIX;
    let fraction = (u64::from(since_1970.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_client_gets_its_transmit_time_back() {
        let mut request = [0; PACKET];
        request[0] = 4 << 3 | MODE_CLIENT;
        request[40..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let answer = answer(&request, Duration::new(1, 500_000_000)).unwrap();
        assert_eq!(answer[0], 4 << 3 | MODE_SERVER);
        assert_eq!(&answer[24..32], &request[40..48]);
        assert_eq!(answer[40..44], 2_208_988_801_u32.to_be_bytes());
        assert_eq!(answer[44..48], 0x8000_0000_u32.to_be_bytes());
    }

    #[test]
    fn anything_else_is_left_without_an_answer() {
        let now = Duration::from_secs(1);
        assert_eq!(answer(&[0x23; 47], now), None);
        let mut from_server = [0; PACKET];
        from_server[0] = 4 << 3 | MODE_SERVER;
        assert_eq!(answer(&from_server, now), None);
    }
}
