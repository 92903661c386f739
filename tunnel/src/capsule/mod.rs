//! Capsules (RFC 9297 §3.2) and those of CONNECT-IP (RFC 9484 §4.7).

use std::{net::IpAddr, time::Duration};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ipnet::IpNet;

use crate::{
    http3::{Code, ProtocolError, datagram::IP_CONTEXT},
    routes::{IpRange, are_ordered},
    varint,
};

const DATAGRAM: u64 = 0x00;
const ADDRESS_ASSIGN: u64 = 0x01;
const ADDRESS_REQUEST: u64 = 0x02;
const ROUTE_ADVERTISEMENT: u64 = 0x03;
/// The product's own. Who does not know it skips it.
const ECHO: u64 = 0x6d_3210;

/// The longest value in bytes of a capsule that is read; an IP packet and its context id always fit, and some 2000
/// ranges.
pub const MAX_VALUE: u64 = 72 * 1024;

/// An address or prefix that the sender assigns to the receiver (RFC 9484 §4.7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignedAddress {
    /// The request that this answers, 0 when none was made.
    pub request_id: u64,
    /// What the receiver may use as source address. The unspecified address with the full prefix length answers a
    /// request that is refused.
    pub prefix: IpNet,
}

impl AssignedAddress {
    /// An assignment that answers no request.
    #[must_use]
    pub const fn unrequested(prefix: IpNet) -> Self {
        Self { request_id: 0, prefix }
    }

    /// Whether it says that the request is refused.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.prefix.addr().is_unspecified() && self.prefix.prefix_len() == self.prefix.max_prefix_len()
    }
}

/// An address that the sender would like to have (RFC 9484 §4.7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestedAddress {
    /// Names the request: not 0, below 2^62, never used twice in a session.
    pub request_id: u64,
    /// The wish; the unspecified address means any.
    pub prefix: IpNet,
}

/// A capsule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capsule {
    /// An HTTP datagram's payload: context id and packet.
    Datagram(Bytes),
    /// All addresses of the receiver.
    AddressAssign(Vec<AssignedAddress>),
    /// A wish for addresses, at least one.
    AddressRequest(Vec<RequestedAddress>),
    /// All ranges that the sender reaches, in order.
    RouteAdvertisement(Vec<IpRange>),
    /// From a client: to be sent back after this time, in milliseconds. From a server: sent back.
    Echo(Duration),
}

impl Capsule {
    /// Appends it. A request id over [`varint::MAX`] becomes that.
    pub fn encode(&self, out: &mut impl BufMut) {
        let mut value = Vec::new();
        let kind = match self {
            Self::Datagram(payload) => {
                value.extend_from_slice(payload);
                DATAGRAM
            }
            Self::AddressAssign(addresses) => {
                for address in addresses {
                    write_address(address.request_id, address.prefix, &mut value);
                }
                ADDRESS_ASSIGN
            }
            Self::AddressRequest(addresses) => {
                for address in addresses {
                    write_address(address.request_id, address.prefix, &mut value);
                }
                ADDRESS_REQUEST
            }
            Self::RouteAdvertisement(ranges) => {
                for range in ranges {
                    write_range(range, &mut value);
                }
                ROUTE_ADVERTISEMENT
            }
            Self::Echo(delay) => {
                let milliseconds = u64::try_from(delay.as_millis()).unwrap_or(varint::MAX);
                varint::write(milliseconds.min(varint::MAX), &mut value);
                ECHO
            }
        };
        varint::write(kind, out);
        varint::write(value.len() as u64, out);
        out.put_slice(&value);
    }

    /// Appends the DATAGRAM capsule of an IP packet (RFC 9484 §6: context id 0).
    pub fn encode_packet(packet: &[u8], out: &mut impl BufMut) {
        varint::write(DATAGRAM, out);
        varint::write((varint::size(IP_CONTEXT) + packet.len()) as u64, out);
        varint::write(IP_CONTEXT, out);
        out.put_slice(packet);
    }

    /// The IP packet in a DATAGRAM capsule's payload; `None` when it belongs to another context and is to be dropped.
    #[must_use]
    pub fn packet(payload: &Bytes) -> Option<Bytes> {
        match varint::read(payload) {
            Some((IP_CONTEXT, size)) => Some(payload.slice(size..)),
            _ => None,
        }
    }

    fn decode(kind: u64, value: Bytes) -> Result<Self, ProtocolError> {
        let mut rest = &value[..];
        let rest = &mut rest;
        match kind {
            DATAGRAM => Ok(Self::Datagram(value)),
            ADDRESS_ASSIGN => {
                let mut addresses = Vec::new();
                while !rest.is_empty() {
                    let (request_id, prefix) = take_address(rest)?;
                    addresses.push(AssignedAddress { request_id, prefix });
                }
                Ok(Self::AddressAssign(addresses))
            }
            ADDRESS_REQUEST => {
                let mut addresses = Vec::new();
                while !rest.is_empty() {
                    let (request_id, prefix) = take_address(rest)?;
                    if request_id == 0 {
                        return Err(malformed("ADDRESS_REQUEST with request id 0"));
                    }
                    addresses.push(RequestedAddress { request_id, prefix });
                }
                if addresses.is_empty() {
                    return Err(malformed("ADDRESS_REQUEST without an address"));
                }
                Ok(Self::AddressRequest(addresses))
            }
            ECHO => match varint::take(rest) {
                Some(milliseconds) if rest.is_empty() => Ok(Self::Echo(Duration::from_millis(milliseconds))),
                _ => Err(malformed("ECHO is not one integer")),
            },
            _ => {
                let mut ranges = Vec::new();
                while !rest.is_empty() {
                    ranges.push(take_range(rest)?);
                }
                if !are_ordered(&ranges) {
                    return Err(malformed("ROUTE_ADVERTISEMENT with ranges that overlap or are not in order"));
                }
                Ok(Self::RouteAdvertisement(ranges))
            }
        }
    }
}

/// Cuts a data stream into capsules, however its bytes arrive. Unknown ones are skipped (RFC 9297 §3.2).
#[derive(Debug, Default)]
pub struct CapsuleReader {
    input: BytesMut,
    state: State,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Header,
    Value(u64, usize),
    Skipped(u64),
}

impl CapsuleReader {
    /// Adds what the stream brought.
    pub fn push(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// The next capsule; `None` when more input is needed.
    ///
    /// # Errors
    /// MESSAGE_ERROR for a malformed one (RFC 9297 §3.3), EXCESSIVE_LOAD for one over [`MAX_VALUE`].
    pub fn next_capsule(&mut self) -> Result<Option<Capsule>, ProtocolError> {
        loop {
            match self.state {
                State::Header => {
                    let Some((kind, length)) = self.take_header() else {
                        return Ok(None);
                    };
                    self.state = begin(kind, length)?;
                }
                State::Value(kind, length) => {
                    if self.input.len() < length {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let value = self.input.split_to(length).freeze();
                    return Capsule::decode(kind, value).map(Some);
                }
                State::Skipped(0) => self.state = State::Header,
                State::Skipped(left) => {
                    let skipped = (self.input.len() as u64).min(left);
                    if skipped == 0 {
                        return Ok(None);
                    }
                    self.input.advance(skipped as usize);
                    self.state = State::Skipped(left - skipped);
                }
            }
        }
    }

    /// The next capsule of what was [pushed](Self::push) and then of `piece`, whose bytes it takes; `None` when it took
    /// all of them and needs more. A capsule that `piece` holds as a whole is not copied.
    ///
    /// # Errors
    /// As [`next_capsule`](Self::next_capsule).
    pub fn next_in(&mut self, piece: &mut Bytes) -> Result<Option<Capsule>, ProtocolError> {
        loop {
            if let Some(capsule) = self.next_whole(piece)? {
                return Ok(Some(capsule));
            }
            if let Some(capsule) = self.next_capsule()? {
                return Ok(Some(capsule));
            }
            if piece.is_empty() {
                return Ok(None);
            }
            let wanted = match self.state {
                // Byte by byte, so that the value is looked for in the piece
                State::Header => 1,
                State::Value(_, length) => length - self.input.len(),
                State::Skipped(left) => {
                    let skipped = (piece.len() as u64).min(left);
                    piece.advance(skipped as usize);
                    self.state = State::Skipped(left - skipped);
                    continue;
                }
            };
            self.push(&piece.split_to(wanted.min(piece.len())));
        }
    }

    /// The capsule at the beginning of `piece` when nothing is kept of an earlier one and it is whole and of a known type.
    fn next_whole(&mut self, piece: &mut Bytes) -> Result<Option<Capsule>, ProtocolError> {
        if !self.input.is_empty() || !matches!(self.state, State::Header) {
            return Ok(None);
        }
        let Some((kind, length, size)) = read_header(piece) else {
            return Ok(None);
        };
        let State::Value(kind, length) = begin(kind, length)? else {
            return Ok(None);
        };
        if piece.len() < size + length {
            return Ok(None);
        }
        piece.advance(size);
        Capsule::decode(kind, piece.split_to(length)).map(Some)
    }

    /// To be asked when the stream ended.
    ///
    /// # Errors
    /// MESSAGE_ERROR when it ended within a capsule.
    pub fn finish(&self) -> Result<(), ProtocolError> {
        match self.state {
            State::Header | State::Skipped(0) if self.input.is_empty() => Ok(()),
            _ => Err(malformed("stream ended within a capsule")),
        }
    }

    fn take_header(&mut self) -> Option<(u64, u64)> {
        let (kind, length, size) = read_header(&self.input)?;
        self.input.advance(size);
        Some((kind, length))
    }
}

/// Type, length and the bytes that both take; `None` when they are not whole.
fn read_header(input: &[u8]) -> Option<(u64, u64, usize)> {
    let (kind, kind_size) = varint::read(input)?;
    let (length, length_size) = varint::read(&input[kind_size..])?;
    Some((kind, length, kind_size + length_size))
}

fn begin(kind: u64, length: u64) -> Result<State, ProtocolError> {
    match kind {
        DATAGRAM | ADDRESS_ASSIGN | ADDRESS_REQUEST | ROUTE_ADVERTISEMENT | ECHO if length <= MAX_VALUE => {
            Ok(State::Value(kind, length as usize))
        }
        DATAGRAM | ADDRESS_ASSIGN | ADDRESS_REQUEST | ROUTE_ADVERTISEMENT | ECHO => {
            let reason = format!("capsule of type {kind:#x} has {length} bytes, at most {MAX_VALUE} are read");
            Err(ProtocolError::new(Code::EXCESSIVE_LOAD, reason))
        }
        _ => Ok(State::Skipped(length)),
    }
}

fn write_address(request_id: u64, prefix: IpNet, out: &mut Vec<u8>) {
    varint::write(request_id.min(varint::MAX), out);
    let network = prefix.network();
    out.push(version(network));
    write_ip(network, out);
    out.push(prefix.prefix_len());
}

fn take_address(input: &mut &[u8]) -> Result<(u64, IpNet), ProtocolError> {
    let request_id = varint::take(input).ok_or_else(cut)?;
    let version = take_byte(input)?;
    let address = take_ip(version, input)?;
    let prefix = IpNet::new(address, take_byte(input)?).map_err(|_| malformed("prefix length exceeds the address"))?;
    if prefix.network() != address {
        return Err(malformed("address bits behind the prefix length"));
    }
    Ok((request_id, prefix))
}

fn write_range(range: &IpRange, out: &mut Vec<u8>) {
    out.push(version(range.start()));
    write_ip(range.start(), out);
    write_ip(range.end(), out);
    out.push(range.protocol());
}

fn take_range(input: &mut &[u8]) -> Result<IpRange, ProtocolError> {
    let version = take_byte(input)?;
    let start = take_ip(version, input)?;
    let end = take_ip(version, input)?;
    IpRange::new(start, end, take_byte(input)?).ok_or_else(|| malformed("range ends before its start"))
}

fn version(address: IpAddr) -> u8 {
    if address.is_ipv4() { 4 } else { 6 }
}

fn write_ip(address: IpAddr, out: &mut Vec<u8>) {
    match address {
        IpAddr::V4(address) => out.extend_from_slice(&address.octets()),
        IpAddr::V6(address) => out.extend_from_slice(&address.octets()),
    }
}

fn take_ip(version: u8, input: &mut &[u8]) -> Result<IpAddr, ProtocolError> {
    match version {
        4 => take_bytes::<4>(input).map(IpAddr::from),
        6 => take_bytes::<16>(input).map(IpAddr::from),
        _ => Err(malformed("IP version is neither 4 nor 6")),
    }
}

fn take_byte(input: &mut &[u8]) -> Result<u8, ProtocolError> {
    take_bytes::<1>(input).map(|[byte]| byte)
}

fn take_bytes<const N: usize>(input: &mut &[u8]) -> Result<[u8; N], ProtocolError> {
    let (bytes, rest) = input.split_first_chunk().ok_or_else(cut)?;
    *input = rest;
    Ok(*bytes)
}

fn malformed(reason: &'static str) -> ProtocolError {
    ProtocolError::new(Code::MESSAGE_ERROR, reason)
}

fn cut() -> ProtocolError {
    malformed("capsule ends within a field")
}

#[cfg(test)]
mod tests;
