"""A network that swallows UDP: from the start on, and from one moment in mid-session."""

import time

from columns.column import Column
from columns.switch import gap, gap_text
from core.figures import duration
from core.pinger import Pinger
from core.site import TARGET, Site

BOUND_AT_START_S = 30
BOUND_IN_MID_SESSION_S = 45


class BlockedAtStart(Column):
    """Start of the client to the first ping, without UDP."""

    key = "blocked-at-start"
    about = "start of the client to the first ping where UDP is blocked"
    headings = ("UDP blocked at start",)
    goals = ("500 ms or less",)

    def measure(self, bench):
        bench.each(self, lambda peer: self._start(bench, peer))

    def cells(self, figures):
        first = figures["first_ping_s"]
        return [f"none in {BOUND_AT_START_S} s" if first is None else duration(first)]

    def _start(self, bench, peer):
        with Site.routed(bench.tag()) as site:
            peer.start_server(site, bench.certificates)
            site.block_udp()
            with Pinger(site.client, TARGET, 0.005) as pinger:
                started = time.monotonic()
                peer.start_client(site, bench.certificates)
                first = pinger.wait_for_reply(BOUND_AT_START_S, since=started)
        return {"first_ping_s": first and first - started}


class BlockedInMidSession(Column):
    """The gap when UDP dies under a tunnel, measured like the switch of uplinks."""

    key = "blocked-in-mid-session"
    about = "the gap when UDP dies in mid-session, and whether TCP lives"
    headings = ("UDP blocked in mid-session",)
    goals = ("1 s or less, TCP lives",)

    def measure(self, bench):
        bench.each(self, lambda peer: self._block(bench, peer))

    def cells(self, figures):
        return [gap_text(figures, BOUND_IN_MID_SESSION_S)]

    def _block(self, bench, peer):
        with Site.routed(bench.tag()) as site:
            bench.connect(peer, site)
            return gap(site, site.block_udp, BOUND_IN_MID_SESSION_S)
