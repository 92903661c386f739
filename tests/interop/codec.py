"""Wire formats of HTTP datagrams and capsules (RFC 9297) and of IP proxying (RFC 9484). No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Prefix = IPv4Network | IPv6Network

DATAGRAM = 0x00
ADDRESS_ASSIGN = 0x01
ADDRESS_REQUEST = 0x02
ROUTE_ADVERTISEMENT = 0x03

# The context of whole IP packets (RFC 9484 section 5).
IP_CONTEXT = 0

# A value that is longer than this is refused rather than kept in memory.
MAX_VALUE = 1 << 20

_MAX_VARINT = (1 << 62) - 1


class Malformed(ValueError):
    """The peer sent what the RFCs do not allow: the request stream has to be aborted (RFC 9297 section 3.3)."""


@dataclass(frozen=True)
class Datagram:
    """An HTTP datagram in a capsule (RFC 9297 section 3.5)."""

    payload: bytes


@dataclass(frozen=True)
class IdentifiedPrefix:
    """An Assigned Address or a Requested Address (RFC 9484 sections 4.7.1 and 4.7.2)."""

    request_id: int
    prefix: Prefix

    @property
    def is_refusal(self) -> bool:
        """Whether, in an assignment, it says that the request was not granted."""
        return self.prefix.prefixlen == self.prefix.max_prefixlen and int(self.prefix.network_address) == 0


@dataclass(frozen=True)
class AddressAssign:
    """All addresses that the receiver has from now on."""

    addresses: tuple[IdentifiedPrefix, ...]


@dataclass(frozen=True)
class AddressRequest:
    """Addresses that the sender asks for."""

    addresses: tuple[IdentifiedPrefix, ...]


@dataclass(frozen=True)
class AddressRange:
    """An IP Address Range, ends included; protocol 0 stands for all (RFC 9484 section 4.7.3)."""

    start: Address
    end: Address
    protocol: int


@dataclass(frozen=True)
class RouteAdvertisement:
    """All ranges that the sender forwards to from now on."""

    ranges: tuple[AddressRange, ...]


@dataclass(frozen=True)
class Unknown:
    """A capsule of a type that is not known here, to be ignored (RFC 9297 section 3.2)."""

    kind: int
    value: bytes


Capsule = Datagram | AddressAssign | AddressRequest | RouteAdvertisement | Unknown


def encode_capsule(capsule: Capsule) -> bytes:
    """A capsule with its type and length."""
    match capsule:
        case Datagram(value):
            kind = DATAGRAM
        case AddressAssign(addresses):
            kind, value = ADDRESS_ASSIGN, b"".join(map(_encode_identified, addresses))
        case AddressRequest(addresses):
            kind, value = ADDRESS_REQUEST, b"".join(map(_encode_identified, addresses))
        case RouteAdvertisement(ranges):
            kind, value = ROUTE_ADVERTISEMENT, b"".join(map(_encode_range, ranges))
        case Unknown(kind, value):
            pass
    return encode_varint(kind) + encode_varint(len(value)) + value


class CapsuleDecoder:
    """Cuts the data of a request stream into capsules, however it arrives."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Capsule]:
        """The capsules that `data` completes. Raises `Malformed`."""
        self._buffer += data
        capsules: list[Capsule] = []
        position = 0
        while True:
            reader = Reader(self._buffer, position)
            try:
                kind, length = reader.varint(), reader.varint()
            except Malformed:
                break
            if length > MAX_VALUE:
                raise Malformed(f"capsule of type {kind:#x} has {length} bytes")
            if reader.left < length:
                break
            capsules.append(_decode_capsule(kind, reader.take(length)))
            position = reader.position
        del self._buffer[:position]
        return capsules

    def finish(self) -> None:
        """To be called at the end of the stream. Raises `Malformed` when a capsule was cut."""
        if self._buffer:
            raise Malformed("stream ended within a capsule")


def encode_payload(context: int, payload: bytes) -> bytes:
    """An HTTP datagram's payload (RFC 9484 section 6)."""
    return encode_varint(context) + payload


def decode_payload(data: bytes) -> tuple[int, bytes]:
    """Context id and what follows it. Raises `Malformed`."""
    reader = Reader(data)
    context = reader.varint()
    return context, data[reader.position :]


def encode_varint(value: int) -> bytes:
    """A variable-length integer (RFC 9000 section 16)."""
    for prefix, length in ((0, 1), (1, 2), (2, 4), (3, 8)):
        bits = 8 * length - 2
        if value < 1 << bits:
            return (prefix << bits | value).to_bytes(length, "big")
    raise ValueError(f"{value} exceeds {_MAX_VARINT}")


class Reader:
    """Takes fields off a buffer. Everything raises `Malformed` when the buffer ends too early."""

    def __init__(self, data: bytes | bytearray, position: int = 0) -> None:
        self._data = data
        self.position = position

    @property
    def left(self) -> int:
        """The bytes that are left."""
        return len(self._data) - self.position

    def take(self, length: int) -> bytes:
        """The next `length` bytes."""
        if self.left < length:
            raise Malformed(f"{length} bytes expected, {self.left} are left")
        start, self.position = self.position, self.position + length
        return bytes(self._data[start : self.position])

    def uint8(self) -> int:
        """An 8-bit integer."""
        return self.take(1)[0]

    def varint(self) -> int:
        """A variable-length integer."""
        first = self.uint8()
        length = 1 << (first >> 6)
        rest = self.take(length - 1)
        return int.from_bytes(bytes([first & 0x3F]) + rest, "big")

    def address(self, version: int) -> Address:
        """An address of IP version 4 or 6."""
        match version:
            case 4:
                return IPv4Address(self.take(4))
            case 6:
                return IPv6Address(self.take(16))
        raise Malformed(f"IP version {version}")


def _decode_capsule(kind: int, value: bytes) -> Capsule:
    reader = Reader(value)
    match kind:
        case 0x00:
            return Datagram(value)
        case 0x01:
            return AddressAssign(_decode_identified(reader))
        case 0x02:
            return AddressRequest(_check_requests(_decode_identified(reader)))
        case 0x03:
            return RouteAdvertisement(_check_order(_decode_ranges(reader)))
    return Unknown(kind, value)


def _encode_identified(address: IdentifiedPrefix) -> bytes:
    prefix = address.prefix
    fields = bytes([prefix.version]) + prefix.network_address.packed + bytes([prefix.prefixlen])
    return encode_varint(address.request_id) + fields


def _decode_identified(reader: Reader) -> tuple[IdentifiedPrefix, ...]:
    addresses: list[IdentifiedPrefix] = []
    while reader.left:
        request_id = reader.varint()
        address = reader.address(reader.uint8())
        length = reader.uint8()
        try:
            # Both rules of the prefix length field: not longer than the address, no bits behind it.
            prefix = ip_network((address, length), strict=True)
        except ValueError as error:
            raise Malformed(str(error)) from error
        addresses.append(IdentifiedPrefix(request_id, prefix))
    return tuple(addresses)


def _check_requests(requests: tuple[IdentifiedPrefix, ...]) -> tuple[IdentifiedPrefix, ...]:
    if not requests:
        raise Malformed("ADDRESS_REQUEST without an address")
    if any(request.request_id == 0 for request in requests):
        raise Malformed("ADDRESS_REQUEST with request id 0")
    return requests


def _encode_range(given: AddressRange) -> bytes:
    return bytes([given.start.version]) + given.start.packed + given.end.packed + bytes([given.protocol])


def _decode_ranges(reader: Reader) -> tuple[AddressRange, ...]:
    ranges: list[AddressRange] = []
    while reader.left:
        version = reader.uint8()
        start, end = reader.address(version), reader.address(version)
        if int(start) > int(end):
            raise Malformed(f"range from {start} to {end}")
        ranges.append(AddressRange(start, end, reader.uint8()))
    return tuple(ranges)


def _check_order(ranges: tuple[AddressRange, ...]) -> tuple[AddressRange, ...]:
    for before, after in _pairs(ranges):
        former, latter = (before.start.version, before.protocol), (after.start.version, after.protocol)
        if former > latter or (former == latter and int(before.end) >= int(after.start)):
            raise Malformed(f"range from {after.start} comes after the one from {before.start}")
    return ranges


def _pairs(ranges: Sequence[AddressRange]) -> list[tuple[AddressRange, AddressRange]]:
    return list(zip(ranges, ranges[1:]))
