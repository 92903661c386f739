"""The client's first uplink goes down and there is a second one, with another address behind the same router.

The gap is the longest pause between two replies of a 10 ms ping stream. A TCP transfer of 100 kB/s is in flight; it
lives when what was sent before, during and a second after the gap arrives unchanged.
"""

import time

from columns.column import Column
from core.figures import duration
from core.pinger import Pinger
from core.site import TARGET, Site
from core.stream import Stream

INTERVAL_S = 0.01
SETTLE_S = 1.5
CALM_S = 1.0
BOUND_S = 30


class Switch(Column):
    """The gap when the uplink changes."""

    key = "switch"
    about = "the gap when the first of two uplinks goes down, and whether TCP lives"
    headings = ("uplink switch, gap",)
    goals = ("100 ms or less, TCP lives",)

    def measure(self, bench):
        bench.each(self, lambda peer: self._switch(bench, peer))

    def cells(self, figures):
        return [gap_text(figures, BOUND_S)]

    def _switch(self, bench, peer):
        with Site.routed(bench.tag(), uplinks=2) as site:
            bench.connect(peer, site)
            return gap(site, lambda: site.cut("up0"), BOUND_S)


def gap(site, event, bound_s):
    """Lets `event` happen while pings and a TCP transfer are under way, and says what became of them."""
    with Pinger(site.client, TARGET, INTERVAL_S) as pinger, Stream(site) as stream:
        time.sleep(SETTLE_S)
        happened = time.monotonic()
        event()
        steady = pinger.wait_for_steady(happened, CALM_S, bound_s)
        if steady is None:
            return {"gap_s": None, "tcp_lives": False}
        longest = pinger.longest_gap(happened, steady + CALM_S)
        lives = stream.lives(bound_s)
        return {"gap_s": longest, "tcp_lives": lives, "tcp_failure": stream.failure}


def gap_text(figures, bound_s):
    """A gap in the table."""
    if figures["gap_s"] is None:
        return f"none in {bound_s} s"
    return f"{duration(figures['gap_s'])}{'' if figures['tcp_lives'] else ', TCP dead'}"
