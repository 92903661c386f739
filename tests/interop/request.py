"""The CONNECT-IP request and its answer, the same in HTTP/2 and HTTP/3 (RFC 9484 sections 4.4 and 4.5)."""

from __future__ import annotations

Fields = list[tuple[bytes, bytes]]

# What RFC 9484 section 3 recommends, for all targets and all protocols.
WELL_KNOWN_PATH = "/.well-known/masque/ip/*/*/"

# Fields that must not stand beside the capsule protocol (RFC 9297 section 3.2).
_FORBIDDEN = frozenset((b"content-length", b"content-type", b"transfer-encoding"))


class Refused(Exception):
    """The proxy does not grant the tunnel."""


def connect_ip(authority: str, path: str) -> Fields:
    """The request."""
    return [
        (b":method", b"CONNECT"),
        (b":protocol", b"connect-ip"),
        (b":scheme", b"https"),
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"capsule-protocol", b"?1"),
    ]


def answer(request: Fields, path: str) -> Fields:
    """What a proxy at `path` answers to a request."""
    status = _status(dict(request), path.encode())
    if status != 200:
        return [(b":status", str(status).encode())]
    return [(b":status", b"200"), (b"capsule-protocol", b"?1")]


def is_granted(response: Fields) -> bool:
    """Whether an answer, one's own or the proxy's, starts the tunnel."""
    return dict(response).get(b":status", b"").startswith(b"2")


def check_response(response: Fields) -> None:
    """Raises `Refused` unless the answer starts the capsule protocol."""
    fields = dict(response)
    status = fields.get(b":status", b"")
    if not is_granted(response):
        raise Refused(f"the proxy answered {status.decode()}")
    if status in (b"204", b"205", b"206") or _FORBIDDEN & fields.keys():
        raise Refused(f"the answer does not start the capsule protocol: {response}")


def _status(fields: dict[bytes, bytes], path: bytes) -> int:
    if fields.get(b":method") != b"CONNECT" or fields.get(b":protocol") != b"connect-ip":
        return 501
    if fields.get(b":scheme") != b"https" or not fields.get(b":authority"):
        return 400
    if fields.get(b"capsule-protocol") != b"?1":
        return 400
    return 200 if fields.get(b":path") == path else 404
