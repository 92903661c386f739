"""An established tunnel, whatever carries it."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Protocol

from codec import (
    IP_CONTEXT,
    Capsule,
    CapsuleDecoder,
    Datagram,
    Malformed,
    Unknown,
    decode_payload,
    encode_capsule,
    encode_payload,
)
from journal import Direction, Journal

# A capsule type that is reserved so that somebody sends what nobody knows (RFC 9297 section 5.4).
_RESERVED_CAPSULE = 0x29 * 5 + 0x17
# Contexts that nobody has registered (RFC 9484 section 5): a client allocates even ones, a proxy odd ones.
_CLIENT_CONTEXT, _PROXY_CONTEXT = 2, 1


@dataclass(frozen=True)
class Credentials:
    """PEM files for mutual TLS."""

    certificate: Path
    key: Path
    trust_anchor: Path


@dataclass(frozen=True)
class Endpoint:
    """Where a proxy listens."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From "198.51.100.10:443" or "[2001:db8::10]:443". Raises `ValueError`."""
        host, _, port = text.rpartition(":")
        return cls(str(ip_address(host.strip("[]"))), int(port))


class Client(Protocol):
    """Opens a tunnel over one version of HTTP."""

    async def run(self, authority: str, path: str, user: User, journal: Journal) -> None:
        """Connects, asks for a tunnel and returns when it is gone. Raises `request.Refused` or `OSError`."""


class Server(Protocol):
    """Serves tunnels over one version of HTTP."""

    async def start(self, path: str, user: User, journal: Journal) -> None:
        """Listens, and serves tunnels at `path` to clients with a certificate of the trust anchor."""

    def stop(self) -> None:
        """Closes all connections."""


class User(Protocol):
    """Who uses sessions, and is told what comes."""

    def opened(self, session: Session) -> None:
        """The tunnel has been granted."""

    def capsule_received(self, session: Session, capsule: Capsule) -> None:
        """A capsule other than DATAGRAM came."""

    def packet_received(self, session: Session, packet: bytes) -> None:
        """An IP packet came."""

    def closed(self, session: Session, reason: str) -> None:
        """The tunnel is gone."""


class Session(ABC):
    """What HTTP/2 and HTTP/3 have in common. Subclasses bring bytes to the stream and packets to the peer."""

    def __init__(self, stream: int, is_client: bool, user: User, journal: Journal) -> None:
        self.stream = stream
        self.packets_sent = 0
        self.packets_received = 0
        self.packets_dropped = 0
        self._is_client = is_client
        self._user = user
        self._journal = journal
        self._decoder = CapsuleDecoder()
        self._is_open = False
        self._has_noted: set[tuple[Direction, bool]] = set()

    def send_capsule(self, capsule: Capsule) -> None:
        """Sends a capsule on the stream."""
        self._journal.capsule("sent", self.stream, capsule)
        self._write(encode_capsule(capsule))

    @abstractmethod
    def send_packets(self, packets: Sequence[bytes]) -> None:
        """Sends IP packets; those that would wait too long are dropped."""

    def close(self) -> None:
        """Ends the stream, and with it the tunnel."""
        if self._is_open:
            self._finish()
            self.end("closed by this side")

    def open(self) -> None:
        """To be called once the tunnel is granted. The peer gets what it has to ignore."""
        self._is_open = True
        self._write(encode_capsule(Unknown(_RESERVED_CAPSULE, os.urandom(3))))
        context = _CLIENT_CONTEXT if self._is_client else _PROXY_CONTEXT
        self._send_payload(encode_payload(context, b"of a context that was never registered"))
        self._user.opened(self)

    def receive_data(self, data: bytes) -> None:
        """To be called with what comes on the stream."""
        if not self._is_open:
            return
        try:
            for capsule in self._decoder.feed(data):
                if isinstance(capsule, Datagram):
                    self.receive_payload(capsule.payload, in_capsule=True)
                    continue
                self._journal.capsule("received", self.stream, capsule)
                self._user.capsule_received(self, capsule)
        except Malformed as error:
            self.abort(f"malformed capsule: {error}")

    def receive_payload(self, payload: bytes, in_capsule: bool) -> None:
        """To be called with an HTTP datagram's payload."""
        if not self._is_open:
            return
        try:
            context, packet = decode_payload(payload)
        except Malformed:
            return
        if context != IP_CONTEXT:
            return
        self._note_first("received", payload, in_capsule)
        self.packets_received += 1
        self._user.packet_received(self, packet)

    def receive_end(self) -> None:
        """To be called when the peer ended the stream in order."""
        try:
            self._decoder.finish()
        except Malformed as error:
            self.abort(str(error))
            return
        if self._is_open:
            self._finish()
        self.end("ended by the peer")

    def abort(self, reason: str) -> None:
        """Gives the stream up because of what the peer did."""
        if self._is_open:
            self._reset()
        self.end(reason)

    def end(self, reason: str) -> None:
        """To be called when the stream is gone, for whatever reason."""
        if not self._is_open:
            return
        self._is_open = False
        self._journal.note(
            "closed",
            stream=self.stream,
            reason=reason,
            packets_sent=self.packets_sent,
            packets_received=self.packets_received,
            packets_dropped=self.packets_dropped,
        )
        self._user.closed(self, reason)

    def _note_first(self, direction: Direction, payload: bytes, in_capsule: bool) -> None:
        """Writes down the first packet of its kind: a line for each would be too many."""
        if (direction, in_capsule) in self._has_noted:
            return
        self._has_noted.add((direction, in_capsule))
        if in_capsule:
            self._journal.capsule(direction, self.stream, Datagram(payload))
        else:
            context, packet = decode_payload(payload)
            self._journal.datagram(direction, self.stream, context, packet)

    @abstractmethod
    def _write(self, data: bytes) -> None:
        """Sends bytes on the stream, whenever there is room."""

    @abstractmethod
    def _send_payload(self, payload: bytes) -> None:
        """Sends an HTTP datagram, in order with the packets."""

    @abstractmethod
    def _finish(self) -> None:
        """Ends this side's half of the stream."""

    @abstractmethod
    def _reset(self) -> None:
        """Resets the stream."""
