"""A TUN interface of this host.

Packets cross it as the kernel routes them: the kernel has counted down the hop limit of those that it forwards before
they get here, so nothing else does.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from ipaddress import summarize_address_range

from codec import Address, AddressRange, Prefix

# The MTU that IPv6 needs (RFC 8200 section 5) and that every tunnel has to offer (RFC 9484 section 7.1).
MTU = 1280

# <linux/if_tun.h>
_TUNSETIFF = 0x400454CA
_IFF_TUN = 0x0001
_IFF_NO_PI = 0x1000

# Packets that are taken at once before others get their turn.
_BATCH = 64
# The largest packet that the other side may hand over.
_LARGEST = 65535


class Tun:
    """An interface that ends with this process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self._file, _TUNSETIFF, struct.pack("16sH", name.encode(), _IFF_TUN | _IFF_NO_PI))
        # Without an address of its own choice the kernel says nothing by itself.
        _ip("link", "set", "dev", name, "addrgenmode", "none")
        _ip("link", "set", "dev", name, "mtu", str(MTU), "up")
        self._addresses: set[str] = set()
        self._routes: set[Prefix] = set()

    def start(self, take: Callable[[Sequence[bytes]], None]) -> None:
        """Has `take` called with the packets that the kernel sends."""
        asyncio.get_running_loop().add_reader(self._file, lambda: take(self._read()))

    def write(self, packet: bytes) -> None:
        """Hands a packet to the kernel, which drops what is none."""
        try:
            os.write(self._file, packet)
        except OSError:
            pass

    def set_addresses(self, addresses: Iterable[str]) -> None:
        """Makes these, each with its prefix length, the interface's addresses."""
        wanted = set(addresses)
        for address in self._addresses - wanted:
            _ip("address", "del", address, "dev", self._name)
        for address in wanted - self._addresses:
            _ip("address", "add", address, "dev", self._name, *(["nodad"] if ":" in address else []))
        self._addresses = wanted

    def set_routes(self, ranges: Iterable[AddressRange]) -> None:
        """Makes these, and no others, the destinations behind the interface."""
        wanted = {prefix for one in ranges for prefix in _prefixes(one)}
        for prefix in self._routes - wanted:
            _ip("route", "del", str(prefix), "dev", self._name)
        for prefix in wanted - self._routes:
            _ip("route", "add", str(prefix), "dev", self._name)
        self._routes = wanted

    def _read(self) -> list[bytes]:
        packets: list[bytes] = []
        while len(packets) < _BATCH:
            try:
                packets.append(os.read(self._file, _LARGEST))
            except BlockingIOError:
                break
        return packets


def keep_outside(destination: Address) -> None:
    """Pins the route that leads to `destination` now, whatever routes come later."""
    found = _ip("-o", "route", "get", str(destination)).split()
    hop = [word for key in ("via", "dev") if key in found for word in (key, found[found.index(key) + 1])]
    _ip("route", "replace", str(destination), *hop)


def _prefixes(given: AddressRange) -> list[Prefix]:
    """The prefixes that make up a range; half of a family at most, so that they are stronger than default routes."""
    prefixes: list[Prefix] = list(summarize_address_range(given.start, given.end))
    return [half for prefix in prefixes for half in (prefix.subnets() if prefix.prefixlen == 0 else [prefix])]


def _ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=10)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
