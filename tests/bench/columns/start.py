"""From the start of the client program to the first ping that is answered through the tunnel.

The server is already there. A ping is sent every 5 ms. With +100 ms every frame between client and server is held back
50 ms on each way, so that the ping itself takes 100 ms of the time.
"""

import time

from columns.column import Column
from core.errors import Unmeasured
from core.figures import median, milliseconds
from core.pinger import Pinger
from core.site import TARGET, Site, wait_until

INTERVAL_S = 0.005
BOUND_S = 15
DELAYS_S = {"0": 0.0, "100": 0.05}


class Start(Column):
    """Start to first ping."""

    key = "start"
    about = "start of the client to the first ping, at 0 and +100 ms round-trip time"
    headings = ("start to first ping at 0 / +100 ms RTT",)
    goals = ("60 / 330 ms or less",)

    def measure(self, bench):
        bench.each(self, lambda peer: {name: self._starts(bench, peer, delay) for name, delay in DELAYS_S.items()})

    def cells(self, figures):
        return [f"{median(figures['0']) * 1000:.0f} / {milliseconds(median(figures['100']))}"]

    def _starts(self, bench, peer, delay_s):
        site = Site.delayed(bench.tag(), delay_s) if delay_s else Site.direct(bench.tag())
        with site:
            peer.start_server(site, bench.certificates)
            return [self._start(bench, peer, site) for _ in range(bench.repeat)]

    def _start(self, bench, peer, site):
        with Pinger(site.client, TARGET, INTERVAL_S) as pinger:
            started = time.monotonic()
            peer.start_client(site, bench.certificates)
            first = pinger.wait_for_reply(BOUND_S, since=started)
            if first is None:
                words = site.client.last_words("client") or "nothing"
                raise Unmeasured(f"no ping within {BOUND_S} s; the client's last words: {words}")
            peer.stop_client(site)
            if not wait_until(lambda: pinger.sent and not answered_lately(pinger), 5):
                raise Unmeasured("pings are answered without the client")
        return first - started


def answered_lately(pinger):
    """Whether a reply came within the last quarter of a second."""
    return bool(pinger.replies) and time.monotonic() - pinger.replies[-1][1] < 0.25
