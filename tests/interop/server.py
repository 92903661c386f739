#!/usr/bin/env python3
"""A CONNECT-IP proxy (RFC 9484): assigns addresses, advertises routes and forwards packets."""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_network
from pathlib import Path

import http2
import http3
from codec import Address, AddressAssign, AddressRange, AddressRequest, Capsule, IdentifiedPrefix, Prefix
from codec import RouteAdvertisement
from journal import Journal
from packet import ends
from request import WELL_KNOWN_PATH
from session import Credentials, Endpoint, Server, Session
from tun import Tun

_DESCRIPTION = """\
Serves IP tunnels (CONNECT-IP, RFC 9484) over HTTP/3 or HTTP/2 to clients with a certificate of the trust anchor: assigns
each one address of every pool, advertises the routes, and forwards packets through a TUN interface. Runs until SIGTERM
comes. Needs root, and IP forwarding switched on."""

_TRANSPORTS: dict[str, Callable[[Endpoint, Credentials], Server]] = {"http3": http3.Server, "http2": http2.Server}


class Proxy:
    """The clients and their addresses."""

    def __init__(self, tun: Tun, pools: Sequence[Prefix], routes: Sequence[AddressRange], unprompted: bool) -> None:
        self._tun = tun
        self._pools = pools
        self._routes = routes
        self._is_unprompted = unprompted
        self._clients: dict[Address, Session] = {}
        self._own = [next(pool.hosts()) for pool in pools]
        tun.set_addresses(f"{own}/{pool.prefixlen}" for own, pool in zip(self._own, pools))
        tun.start(self._forward)

    def stop(self) -> None:
        """Ends all tunnels."""
        for session in set(self._clients.values()):
            session.close()

    def opened(self, session: Session) -> None:
        """Called by a session. Everybody has addresses from the beginning; who need not ask is told at once."""
        for pool, own in zip(self._pools, self._own):
            free = next(host for host in pool.hosts() if host != own and host not in self._clients)
            self._clients[free] = session
        if self._is_unprompted:
            session.send_capsule(AddressAssign(tuple(self._assignments(session))))
            session.send_capsule(RouteAdvertisement(tuple(self._routes)))

    def capsule_received(self, session: Session, capsule: Capsule) -> None:
        """Called by a session."""
        if not isinstance(capsule, AddressRequest):
            return
        session.send_capsule(AddressAssign(tuple(self._answer(session, capsule))))
        if not self._is_unprompted:
            session.send_capsule(RouteAdvertisement(tuple(self._routes)))

    def packet_received(self, session: Session, packet: bytes) -> None:
        """Called by a session: the client's own source, and what was advertised as destination."""
        found = ends(packet)
        if found is None or self._clients.get(found[0]) is not session or not self._is_routed(found[1]):
            session.packets_dropped += 1
            return
        self._tun.write(packet)

    def closed(self, session: Session, reason: str) -> None:
        """Called by a session."""
        self._clients = {address: other for address, other in self._clients.items() if other is not session}

    def _assignments(self, session: Session) -> Iterator[IdentifiedPrefix]:
        for address, owner in self._clients.items():
            if owner is session:
                yield IdentifiedPrefix(0, ip_network(address))

    def _answer(self, session: Session, requests: AddressRequest) -> Iterator[IdentifiedPrefix]:
        """Every request gets the client's address of its family; the second of a family, and a family without a pool,
        are refused (RFC 9484 section 4.7.2)."""
        left = list(self._assignments(session))
        for request in requests.addresses:
            fitting = [one for one in left if one.prefix.version == request.prefix.version]
            if fitting:
                left.remove(fitting[0])
                yield IdentifiedPrefix(request.request_id, fitting[0].prefix)
            else:
                nothing = ip_network("0.0.0.0/32" if request.prefix.version == 4 else "::/128")
                yield IdentifiedPrefix(request.request_id, nothing)
        yield from left

    def _forward(self, packets: Sequence[bytes]) -> None:
        """Sends what the kernel routed to the clients."""
        batches: dict[Session, list[bytes]] = {}
        for packet in packets:
            found = ends(packet)
            session = self._clients.get(found[1]) if found is not None else None
            if session is not None:
                batches.setdefault(session, []).append(packet)
        for session, batch in batches.items():
            session.send_packets(batch)

    def _is_routed(self, destination: Address) -> bool:
        return any(
            one.start.version == destination.version and int(one.start) <= int(destination) <= int(one.end)
            for one in self._routes
        )


async def run(arguments: argparse.Namespace) -> None:
    """Runs the proxy."""
    journal = Journal(arguments.journal)
    credentials = Credentials(arguments.certificate, arguments.key, arguments.trust_anchor)
    routes = [AddressRange(route[0], route[-1], 0) for route in sorted(arguments.route, key=_order)]
    proxy = Proxy(Tun(arguments.interface), arguments.pool, routes, arguments.assign == "unprompted")
    server = _TRANSPORTS[arguments.protocol](arguments.listen, credentials)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await server.start(arguments.path, proxy, journal)
    journal.note("listening")
    await stopped.wait()
    proxy.stop()
    server.stop()


def _order(route: Prefix) -> tuple[int, int]:
    """Where a range for all protocols stands in ROUTE_ADVERTISEMENT (RFC 9484 section 4.7.3)."""
    return route.version, int(route[0])


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--protocol", choices=("http3", "http2"), required=True, help="what carries the tunnels")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", type=Endpoint.parse, required=True, help="UDP for HTTP/3, TCP for HTTP/2")
    parser.add_argument("--path", default=WELL_KNOWN_PATH, help="where tunnels are (default: %(default)s)")
    parser.add_argument("--certificate", type=Path, required=True, help="PEM: the proxy's certificate and its issuers")
    parser.add_argument("--key", type=Path, required=True, help="PEM: the proxy's key")
    parser.add_argument("--trust-anchor", type=Path, required=True, help="PEM: what clients' certificates chain to")
    parser.add_argument(
        "--pool",
        metavar="PREFIX",
        type=ip_network,
        nargs="+",
        required=True,
        help="clients' addresses, a prefix for each family; the first address of each is the proxy's own",
    )
    parser.add_argument(
        "--route", metavar="PREFIX", type=ip_network, nargs="+", required=True, help="what is advertised, apart"
    )
    parser.add_argument(
        "--assign",
        choices=("on-request", "unprompted"),
        default="on-request",
        help="when clients are told their addresses and routes; a request is answered in any case (default: %(default)s)",
    )
    parser.add_argument("--interface", default="connectip0", help="name of the TUN interface (default: %(default)s)")
    parser.add_argument("--journal", type=Path, required=True, help="where to append what is sent and received, as JSON")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
