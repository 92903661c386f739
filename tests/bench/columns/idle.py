"""What a tunnel that carries nothing costs on the wire, behind a NAT that forgets a UDP mapping after 120 s.

The clients are connected when the run begins and left alone until it ends. Counted are IP bytes on the client's
uplink, both ways, over the last part of that time: `--idle-window` seconds at least. At the end a ping from the
server's side to the client's inner address has to be answered: a tunnel that nobody can reach the machine through is
not idle but gone.
"""

import threading
import time

from columns.column import Column
from core.errors import BenchError, Unmeasured
from core.pinger import Pinger
from core.progress import step
from core.site import TARGET, Site

SETTLE_S = 60
SAMPLE_S = 10
DAY_S = 86400
LEAST_PACKETS = 6


class Idle(Column):
    """Bytes on the wire of an idle tunnel."""

    key = "idle"
    about = "IP bytes on the wire of an idle tunnel behind a NAT with 120 s"
    headings = ("idle kB/day",)
    background = True
    goals = ("200 or less behind a 120 s NAT",)

    def begin(self, bench):
        self._sites = {}
        self._samples = {}
        for peer in bench.peers_of(self):
            with bench.recording(self, peer):
                site = bench.open.enter_context(Site.routed(bench.tag()))
                bench.connect(peer, site)
                self._sites[peer] = site
                self._samples[peer] = []
        self._begun = time.monotonic()
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()
        bench.open.callback(self._stop.set)

    def measure(self, bench):
        end = self._begun + SETTLE_S + bench.idle_window_s
        if self._sites and time.monotonic() < end:
            step(f"  waiting {end - time.monotonic():.0f} s more for the idle tunnels")
            time.sleep(max(0.0, end - time.monotonic()))
        self._stop.set()
        self._sampler.join()
        bench.each(self, lambda peer: self._figures(bench, peer), self._sites)

    def cells(self, figures):
        return [f"{figures['bytes_per_day'] / 1000:.0f}"]

    def _sample(self):
        while not self._stop.is_set():
            for peer, site in self._sites.items():
                try:
                    self._samples[peer].append((time.monotonic() - self._begun, *site.wire()))
                except BenchError:
                    return  # the run is being ended
            self._stop.wait(SAMPLE_S)

    def _figures(self, bench, peer):
        site, samples = self._sites[peer], self._samples[peer]
        last = samples[-1]
        first = max((sample for sample in samples if last[0] - sample[0] >= bench.idle_window_s), default=samples[0])
        seconds, packets, size = (later - earlier for later, earlier in zip(last, first))
        if packets < LEAST_PACKETS:
            raise Unmeasured(f"{packets} packets in {seconds:.0f} s are too few to scale to a day; see --idle-window")
        figures = {
            "window_s": seconds,
            "begins_after_s": first[0],
            "packets": packets,
            "bytes": size,
            "bytes_per_day": size * DAY_S / seconds,
            "samples": samples,
            "reachable_from_server": self._reachable(site),
        }
        if not figures["reachable_from_server"]:
            figures["remark"] = "after the idle time no ping from the server's side was answered within 5 s"
        return figures

    def _reachable(self, site):
        _, address = site.inner_link()
        with Pinger(site.server, address, 0.2, source=TARGET) as pinger:
            return pinger.wait_for_reply(5) is not None
