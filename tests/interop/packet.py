"""What has to be known of an IP packet to let it pass."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from codec import Address


def ends(packet: bytes) -> tuple[Address, Address] | None:
    """Source and destination; `None` when it is no IP packet."""
    match packet[0] >> 4 if packet else 0:
        case 4 if len(packet) >= 20:
            return IPv4Address(packet[12:16]), IPv4Address(packet[16:20])
        case 6 if len(packet) >= 40:
            return IPv6Address(packet[8:24]), IPv6Address(packet[24:40])
    return None
