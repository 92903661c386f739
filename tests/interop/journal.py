"""What is said and heard, one JSON object a line, for whoever checks it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from codec import (
    AddressAssign,
    AddressRequest,
    Capsule,
    Datagram,
    IdentifiedPrefix,
    RouteAdvertisement,
    Unknown,
    decode_payload,
)

Direction = Literal["sent", "received"]


class Journal:
    """Appends to a file; every line is complete as soon as it is there."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def note(self, event: str, **members: object) -> None:
        """Writes a line with the event's name, the time in seconds and `members`."""
        line = {"time": round(time.monotonic(), 6), "event": event, **members}
        self._file.write(json.dumps(line) + "\n")

    def settings(self, direction: Direction, settings: Mapping[int, int]) -> None:
        """SETTINGS, identifiers in hexadecimal."""
        values = {f"{int(identifier):#x}": value for identifier, value in settings.items()}
        self.note("settings", direction=direction, settings=values)

    def fields(self, event: str, direction: Direction, stream: int, fields: Iterable[tuple[bytes, bytes]]) -> None:
        """The field section of a request or a response, in its order."""
        pairs = [[name.decode(), value.decode()] for name, value in fields]
        self.note(event, direction=direction, stream=stream, fields=pairs)

    def capsule(self, direction: Direction, stream: int, capsule: Capsule) -> None:
        """A capsule, field by field."""
        self.note("capsule", direction=direction, stream=stream, **_members(capsule))

    def datagram(self, direction: Direction, stream: int, context: int, payload: bytes) -> None:
        """A QUIC datagram."""
        self.note(
            "datagram", direction=direction, quarter_stream_id=stream // 4, context_id=context, length=len(payload)
        )


def _members(capsule: Capsule) -> dict[str, object]:
    match capsule:
        case Datagram(payload):
            context, rest = decode_payload(payload)
            return {"type": "DATAGRAM", "context_id": context, "length": len(rest)}
        case AddressAssign(addresses):
            return {"type": "ADDRESS_ASSIGN", "addresses": list(map(_address, addresses))}
        case AddressRequest(addresses):
            return {"type": "ADDRESS_REQUEST", "addresses": list(map(_address, addresses))}
        case RouteAdvertisement(ranges):
            listed = [{"start": str(one.start), "end": str(one.end), "protocol": one.protocol} for one in ranges]
            return {"type": "ROUTE_ADVERTISEMENT", "ranges": listed}
        case Unknown(kind, value):
            return {"type": f"{kind:#x}", "length": len(value)}


def _address(address: IdentifiedPrefix) -> dict[str, object]:
    return {"request_id": address.request_id, "prefix": str(address.prefix)}
