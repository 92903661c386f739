"""Checks the benchmark's own instruments on things whose measure is known beforehand."""

import contextlib
import socket
import sys
import time

from columns.switch import gap
from core.pinger import Pinger
from core.site import SERVER, TARGET, Site, wait_until

BURN = """
import os, time
while sum(os.times()[:2]) < 0.5: pass
time.sleep(60)
"""


def faults():
    """Yields what an instrument shows wrongly."""
    yield from gap_of_a_link_that_is_down_for_a_known_time()
    with Site.routed("known") as site:
        yield from bytes_of_known_pings(site)
        yield from processor_time_of_a_program_that_knows_its_own(site)
        yield from udp_that_is_blocked(site)


def gap_of_a_link_that_is_down_for_a_known_time():
    """A link that is down for 300 ms, under pings and a TCP transfer."""

    def interrupt():
        site.server.ip("link set srv0 down")
        time.sleep(0.3)
        site.server.ip("link set srv0 up")

    with Site.direct("known") as site:
        site.client.ip(f"route add {TARGET} via {SERVER}")
        figures = gap(site, interrupt, 10)
    if figures["gap_s"] is None or not 0.29 <= figures["gap_s"] <= 1.0:
        yield f"a link was down for 0.3 s, and the gap was {figures['gap_s']} s"
    if not figures["tcp_lives"]:
        yield f"a TCP transfer did not live through 0.3 s: {figures.get('tcp_failure')}"


def bytes_of_known_pings(site):
    """Twenty pings of 36 bytes, and their replies."""
    before = site.wire()
    with Pinger(site.client, SERVER, 0.01) as pinger:
        wait_until(lambda: len(pinger.sent) >= 20, 5)
    sent = len(pinger.sent)
    wait_until(lambda: site.wire()[0] - before[0] >= 2 * sent, 2)
    packets, size = (later - earlier for later, earlier in zip(site.wire(), before))
    if (packets, size) != (2 * sent, 2 * sent * 36):
        yield f"{2 * sent} packets of 36 bytes were counted as {packets} packets of {size} bytes together"


def processor_time_of_a_program_that_knows_its_own(site):
    """A program that works for half a second and then waits."""
    site.client.spawn("burn", [sys.executable, "-c", BURN])
    wait_until(lambda: sum(site.client.cpu_seconds().values()) >= 0.45, 20)
    time.sleep(0.2)
    spent = sum(site.client.cpu_seconds().values())
    site.client.end_processes()
    if not 0.45 <= spent <= 0.6:
        yield f"a program that worked for 0.5 s was counted with {spent} s"
    if site.client.processes():
        yield "a program that was ended is still there"


def udp_that_is_blocked(site):
    """A UDP packet that arrives, and one that does not."""
    with (
        site.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        site.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((SERVER, 5999))
        receiver.settimeout(1)
        sender.sendto(b"before", (SERVER, 5999))
        arrived = []
        with contextlib.suppress(TimeoutError):
            arrived.append(receiver.recv(100))
        site.block_udp()
        sender.sendto(b"after", (SERVER, 5999))
        with contextlib.suppress(TimeoutError):
            arrived.append(receiver.recv(100))
    if arrived != [b"before"]:
        yield f"of two UDP packets only the one before the block had to arrive; {arrived} did"
