#!/usr/bin/env python3
"""A CONNECT-IP client (RFC 9484): opens a tunnel, and routes through it what the proxy advertises."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path

import http2
import http3
from codec import AddressAssign, AddressRequest, Capsule, IdentifiedPrefix, Prefix, RouteAdvertisement
from journal import Journal
from packet import ends
from request import WELL_KNOWN_PATH, Refused
from session import Client, Credentials, Endpoint, Session
from tun import Tun, keep_outside

_DESCRIPTION = """\
Opens an IP tunnel (CONNECT-IP, RFC 9484) to a proxy over HTTP/3 or HTTP/2 with mutual TLS, asks for addresses
(ADDRESS_REQUEST), and gives the assigned addresses and the advertised routes to a TUN interface. Runs until the tunnel
is gone or SIGTERM comes. Needs root."""

_EXIT_CODES = """\
exit codes: 0 after SIGTERM, 1 when the proxy refused or ended the tunnel."""

_TRANSPORTS: dict[str, Callable[[Endpoint, Credentials], Client]] = {"http3": http3.Client, "http2": http2.Client}


class Device:
    """The host behind the tunnel."""

    def __init__(self, tun: Tun, wishes: Sequence[Prefix], journal: Journal) -> None:
        self._tun = tun
        self._wishes = [IdentifiedPrefix(number, wish) for number, wish in enumerate(wishes, start=1)]
        self._journal = journal
        self._session: Session | None = None
        self._addresses: AddressAssign | None = None
        self._routes: RouteAdvertisement | None = None
        self._is_up = False
        self.is_stopped = False
        self.reason = "no tunnel"

    def stop(self) -> bool:
        """Ends the tunnel; whether there was one."""
        self.is_stopped = True
        if self._session is None:
            return False
        self._session.close()
        return True

    def opened(self, session: Session) -> None:
        """Called by the session."""
        self._session = session
        if self._wishes:
            session.send_capsule(AddressRequest(tuple(self._wishes)))
        self._tun.start(self._forward)

    def capsule_received(self, session: Session, capsule: Capsule) -> None:
        """Called by the session."""
        match capsule:
            case AddressAssign():
                self._addresses = capsule
            case RouteAdvertisement():
                self._routes = capsule
        self._apply()

    def packet_received(self, session: Session, packet: bytes) -> None:
        """Called by the session."""
        found = ends(packet)
        if found is None or not self._is_own(found[1]):
            session.packets_dropped += 1
            return
        self._tun.write(packet)

    def closed(self, session: Session, reason: str) -> None:
        """Called by the session."""
        self._session = None
        self.reason = reason

    def _apply(self) -> None:
        """Sets what was assigned and advertised, once every wish has its answer."""
        if self._addresses is None or self._routes is None:
            return
        answered = {address.request_id for address in self._addresses.addresses}
        if not self._is_up and not answered.issuperset(wish.request_id for wish in self._wishes):
            return
        self._tun.set_addresses(str(one.prefix) for one in self._addresses.addresses if not one.is_refusal)
        self._tun.set_routes(self._routes.ranges)
        if not self._is_up:
            self._is_up = True
            self._journal.note("up")

    def _forward(self, packets: Sequence[bytes]) -> None:
        """Sends what the kernel routed into the tunnel from an assigned address."""
        session = self._session
        if session is None:
            return
        sources = [(packet, ends(packet)) for packet in packets]
        session.send_packets([packet for packet, found in sources if found is not None and self._is_own(found[0])])

    def _is_own(self, address: object) -> bool:
        assigned = self._addresses.addresses if self._addresses is not None else ()
        return any(address in one.prefix for one in assigned if not one.is_refusal)


async def run(arguments: argparse.Namespace) -> int:
    """Runs the client; the exit code."""
    journal = Journal(arguments.journal)
    credentials = Credentials(arguments.certificate, arguments.key, arguments.trust_anchor)
    proxy: Endpoint = arguments.proxy
    try:
        device = Device(Tun(arguments.interface), arguments.request, journal)
        keep_outside(ip_address(proxy.host))
        client = _TRANSPORTS[arguments.protocol](proxy, credentials)
        tunnel = client.run(arguments.authority or _authority(proxy), arguments.path, device, journal)
        task = asyncio.ensure_future(tunnel)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: device.stop() or task.cancel())
        await task
    except asyncio.CancelledError:
        return 0
    except (Refused, OSError) as error:
        print(f"client.py: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    if not device.is_stopped:
        print(f"client.py: {device.reason}", file=sys.stderr)
    return 0 if device.is_stopped else 1


def _authority(proxy: Endpoint) -> str:
    """The proxy's `:authority` when its address is its name."""
    host = f"[{proxy.host}]" if ":" in proxy.host else proxy.host
    return host if proxy.port == 443 else f"{host}:{proxy.port}"


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=_DESCRIPTION, epilog=_EXIT_CODES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--protocol", choices=("http3", "http2"), required=True, help="what carries the tunnel")
    parser.add_argument("--proxy", metavar="ADDRESS:PORT", type=Endpoint.parse, required=True, help="where the proxy listens")
    parser.add_argument("--authority", help="the proxy's :authority (default: its address, and port unless 443)")
    parser.add_argument("--path", default=WELL_KNOWN_PATH, help="the expanded URI template (default: %(default)s)")
    parser.add_argument("--certificate", type=Path, required=True, help="PEM: the client's certificate and its issuers")
    parser.add_argument("--key", type=Path, required=True, help="PEM: the client's key")
    parser.add_argument("--trust-anchor", type=Path, required=True, help="PEM: what the proxy's certificate chains to")
    parser.add_argument(
        "--request",
        metavar="PREFIX",
        type=ip_network,
        nargs="*",
        default=[ip_network("0.0.0.0/32"), ip_network("::/128")],
        help="addresses to ask for; 0.0.0.0/32 and ::/128, the default, stand for any one of their family",
    )
    parser.add_argument("--interface", default="connectip0", help="name of the TUN interface (default: %(default)s)")
    parser.add_argument("--journal", type=Path, required=True, help="where to append what is sent and received, as JSON")
    sys.exit(asyncio.run(run(parser.parse_args())))


if __name__ == "__main__":
    main()
