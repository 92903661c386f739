"""Bufferbloat: what an upload that fills a link of 2 Mbit/s adds to a ping through the tunnel.

The limit is in the network, beyond the client's uplink, with a queue of 0.1 s and of 1 s in front of it, first in,
first out: the queue of a modem or a base station, that the tunnel cannot see and has to leave empty. Added means:
over the median of the same ping on the idle link.
"""

import threading
import time

from columns.column import Column
from core.errors import Unmeasured
from core.figures import median, milliseconds, percentile
from core.iperf import transfer
from core.pinger import Pinger
from core.site import TARGET, Site

MBIT_S = 2
QUEUES_S = {"0.1": 0.1, "1": 1.0}
SETTLE_S = 4
MEASURE_S = 8
INTERVAL_S = 0.05


class Bloat(Column):
    """Ping beside an upload."""

    key = "bloat"
    about = "what a saturating upload adds to a ping, at 2 Mbit/s"
    headings = tuple(f"2 Mbit/s, queue of {name} s: added to a ping, median / p95" for name in QUEUES_S)
    goals = ("below 30 ms", "below 30 ms")

    def measure(self, bench):
        bench.each(self, lambda peer: {name: self._upload(bench, peer, queue) for name, queue in QUEUES_S.items()})

    def cells(self, figures):
        return [self._cell(figures[name]) for name in QUEUES_S]

    def _cell(self, figures):
        return f"{figures['added_median_s'] * 1000:.0f} / {milliseconds(figures['added_p95_s'])}"

    def _upload(self, bench, peer, queue_s):
        with Site.routed(bench.tag()) as site:
            bench.connect(peer, site)
            site.limit(MBIT_S, queue_s)
            with Pinger(site.client, TARGET, INTERVAL_S) as pinger:
                time.sleep(2)
                idle = pinger.round_trips()
                if not idle:
                    raise Unmeasured("no ping was answered on the idle link of 2 Mbit/s")
                upload = Upload(site, SETTLE_S + MEASURE_S)
                upload.start()
                time.sleep(SETTLE_S)
                loaded_since = time.monotonic()
                time.sleep(MEASURE_S - 0.5)
                loaded_until = time.monotonic()
                upload.join()
            if upload.failure:
                raise upload.failure
            loaded = pinger.round_trips(loaded_since, loaded_until)
            sent = sum(1 for moment in pinger.sent if loaded_since <= moment <= loaded_until)
        if not loaded:
            raise Unmeasured("no ping was answered beside the upload")
        rest = median(idle)
        return {
            "idle_median_s": rest,
            "added_median_s": median(loaded) - rest,
            "added_p95_s": percentile(loaded, 0.95) - rest,
            "pings_sent": sent,
            "pings_answered": len(loaded),
            "upload_mbit_s": upload.result.mbit_s,
        }


class Upload(threading.Thread):
    """An upload in the background; `result` or `failure` says how it went."""

    def __init__(self, site, seconds):
        super().__init__(daemon=True)
        self._site = site
        self._seconds = seconds
        self.result = None
        self.failure = None

    def run(self):
        try:
            self.result = transfer(self._site, self._seconds, down=False)
        except Unmeasured as error:
            self.failure = error
