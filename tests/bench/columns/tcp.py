"""TCP through the tunnel: how much, what it costs in processor time, and what memory the client takes.

Processor time is user and system time of the peer's own processes, all threads, on both sides; iperf3's does not
count. A gigabyte is 10^9 bytes of TCP payload at the receiver. Rounds go over all peers, so that a slow minute of the
machine meets all of them.
"""

import contextlib
import os
import subprocess

from columns.column import Column
from core.errors import Unmeasured
from core.figures import median
from core.iperf import transfer
from core.node import run
from core.progress import step
from core.site import Site
from peers.plain import Cipher

DIRECTIONS = ("up", "down")
PROFILE_S = 10


class Tcp(Column):
    """Throughput, CPU and memory."""

    key = "tcp"
    about = "TCP up and down, CPU seconds per GB, resident memory"
    headings = ("TCP up / down Mbit/s", "client + server CPU s per GB, up / down", "client RSS MB")
    goals = ("ahead of the best", "4.0 or less", "25 or less")

    def measure(self, bench):
        with contextlib.ExitStack() as stack:
            sites = {}
            for peer in bench.peers_of(self):
                with bench.recording(self, peer):
                    if isinstance(peer, Cipher):
                        bench.results.put(self, peer, {"bytes_per_s": peer.speed(2)})
                        continue
                    site = stack.enter_context(Site.direct(bench.tag(), peer.offload))
                    bench.connect(peer, site)
                    sites[peer] = site
            samples = {peer: {direction: [] for direction in DIRECTIONS} for peer in sites}
            for round_number in range(1, bench.repeat + 1):
                for peer in list(sites):
                    with bench.recording(self, peer):
                        for direction in DIRECTIONS:
                            samples[peer][direction].append(one_transfer(sites[peer], bench.seconds, direction))
                        latest = ", ".join(f"{way} {samples[peer][way][-1]['mbit_s']:.0f} Mbit/s" for way in DIRECTIONS)
                        step(f"  round {round_number}: {peer.key}: {latest}")
                        continue
                    del sites[peer]
            for peer, site in sites.items():
                with bench.recording(self, peer):
                    bench.results.put(self, peer, summary(site, samples[peer]))
                    if bench.profile and site.client.processes():
                        profile(bench, peer, site)

    def cells(self, figures):
        if "bytes_per_s" in figures:
            rate = figures["bytes_per_s"]
            return [f"{rate * 8 / 1e6:.0f} per core", f"{2e9 / rate:.1f}", ""]
        throughput = " / ".join(f"{figures[way]['mbit_s']:.0f}" for way in DIRECTIONS)
        if not figures["has_processes"]:
            return [throughput, "", ""]
        cost = " / ".join(f"{figures[way]['cpu_s_per_gb']:.1f}" for way in DIRECTIONS)
        return [throughput, cost, f"{figures['client_rss_bytes'] / 1e6:.0f}"]


def one_transfer(site, seconds, direction):
    """One transfer and what it cost."""
    nodes = {"client": site.client, "server": site.server}
    before = {name: node.cpu_seconds() for name, node in nodes.items()}
    result = transfer(site, seconds, down=direction == "down")
    spent = {}
    for name, node in nodes.items():
        spent[name] = sum(after - before[name].get(pid, 0.0) for pid, after in node.cpu_seconds().items())
    return {
        "mbit_s": result.mbit_s,
        "bytes": result.bytes,
        "client_cpu_s": spent["client"],
        "server_cpu_s": spent["server"],
        "cpu_s_per_gb": (spent["client"] + spent["server"]) / (result.bytes / 1e9),
        "load": os.getloadavg()[0],
    }


def summary(site, samples):
    """The medians, and what the client takes now that it has worked."""
    figures = {
        way: {key: median([sample[key] for sample in samples[way]]) for key in ("mbit_s", "cpu_s_per_gb")}
        for way in DIRECTIONS
    }
    figures["samples"] = samples
    figures["has_processes"] = bool(site.client.processes())
    if figures["has_processes"]:
        figures["client_rss_bytes"] = site.client.memory_bytes()
        figures["client_peak_rss_bytes"] = site.client.memory_bytes("VmHWM")
        link, _ = site.inner_link()
        figures["inner_mtu"] = link["mtu"]
    return figures


def profile(bench, peer, site):
    """Records one more transfer each way with perf; writes the shares of objects and functions on either side."""
    bench.profile.mkdir(parents=True, exist_ok=True)
    for direction in DIRECTIONS:
        recorders = []
        for name, node in (("client", site.client), ("server", site.server)):
            pids = ",".join(str(pid) for pid in node.processes())
            base = bench.profile / f"{peer.key}-{direction}-{name}"
            command = f"perf record -q -g -F 1999 -e cpu-clock -o {base}.data -p {pids} -- sleep {PROFILE_S}"
            recorders.append((base, node.spawn("perf", command.split())))
        try:
            transfer(site, PROFILE_S, down=direction == "down")
        finally:
            for _, recorder in recorders:
                try:
                    recorder.wait(30)
                except subprocess.TimeoutExpired:
                    recorder.kill()
                    raise Unmeasured("perf does not end") from None
        for base, _ in recorders:
            base.with_suffix(".txt").write_text(f"{shares(base, 'dso', 6)}\n\n{shares(base, 'dso,symbol', 25)}\n")
        step(f"  profile of {peer.key}, {direction}: {bench.profile}")


def shares(base, fields, most):
    """The first lines of what perf reports by these fields; a function's share is without what it calls."""
    report = f"perf report -i {base}.data --stdio --no-children -g none --fields overhead,sample,{fields}"
    lines = [line.rstrip() for line in run(report.split()).splitlines()]
    return "\n".join([line for line in lines if line and not line.startswith("#")][:most])
