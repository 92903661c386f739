"""`--smoke`: in under a minute, that m2mvpn carries bytes, and that the benchmark measures what is there."""

import argparse

from columns.start import Start
from columns.tcp import Tcp
from core import known, machine, report
from core.bench import Bench
from core.progress import step
from core.results import Results
from peers.m2mvpn import M2mvpnHttp3
from peers.plain import Plain


def peers():
    """The peers that it needs."""
    return [Plain, M2mvpnHttp3]


def run(programs):
    """Measures a little and returns 0 when everything is as it must be, else 1."""
    options = argparse.Namespace(repeat=1, seconds=1, idle_window=60, profile=None)
    results = Results(None, machine.facts(), {"started": "smoke", "repeat": 1, "seconds": 1})
    columns = [Tcp(), Start()]
    with Bench(options, results) as bench:
        for peer in peers():
            bench.admit(peer(programs))
        for column in columns:
            column.measure(bench)
    print(report.markdown(results, columns))
    faults = [*known.faults(), *(text for text in expectations(results.data["peers"]) if text)]
    for fault in faults:
        step(f"smoke: {fault}")
    step("smoke: failed" if faults else "smoke: everything holds")
    return 1 if faults else 0


def expectations(rows):
    """Yields what is not as it must be."""
    for key, row in rows.items():
        yield "left_out" in row and f"{key} is left out: {row['left_out']}"
        for column, cell in row["cells"].items():
            yield "unmeasured" in cell and f"{key}, {column}: {cell['unmeasured']}"
    transfers = {key: row["cells"].get("tcp", {}) for key, row in rows.items()}
    for key, cell in transfers.items():
        for way in ("up", "down"):
            size = cell.get("samples", {}).get(way, [{"bytes": 0}])[0]["bytes"]
            yield size < 1_000_000 and f"{key}: only {size} bytes went {way} in a second"
    tunnel = transfers[M2mvpnHttp3.key]
    yield not tunnel.get("client_rss_bytes") and "no memory of vpnd was seen"
    yield not tunnel.get("up", {}).get("cpu_s_per_gb") and "no processor time of vpnd and m2m-gateway was seen"
    yield transfers[Plain.key].get("has_processes") and "the link without a tunnel has processes of a tunnel"
    start = rows[M2mvpnHttp3.key]["cells"].get("start", {})
    yield (
        start.get("100", [0])[0] < 0.1
        and "the delayed link delays nothing: a first ping came in less than its own round trip"
    )
