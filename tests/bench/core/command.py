"""The command line of `tests/bench/run`, and what it does, in order."""

import argparse
import datetime
import os
import sys
from pathlib import Path

from columns import COLUMNS
from core import machine, programs, report, sandbox, smoke
from core.bench import Bench
from core.errors import BenchError
from core.programs import PROJECT, Programs
from core.progress import step
from core.results import Results
from peers import PEERS

PAGE = PROJECT / "docs" / "performance.md"

ABOUT = """\
Puts m2mvpn beside other user-space VPNs, in one run, on this machine: in network namespaces over veth, with nothing
of it visible outside. Prints a Markdown table and writes it into docs/performance.md. Needs root.

What is missing is fetched first: Debian packages with apt (unpacked below target/bench and laid over /usr for the run
only; nothing is installed, no service starts), boringtun-cli with cargo. m2mvpn's own programs are those in
$M2MVPN_BIN; without it they are built (cargo build --release) and taken from there.
"""

NOTES = """\
Every figure is measured in this run. A cell that could not be measured has the reason in a footnote. Throughput
depends on what else the machine does: CPU seconds per GB, and ratios between peers of one run, are what to trust.

Exit status: 0 when the run ended, whatever cells it has; with --smoke 0 when everything was as it must be; 1
otherwise, 2 for wrong arguments. However it ends (Ctrl-C, SIGKILL), no process, namespace or mount of it stays
behind; --json has what was measured until then.

Environment:
  M2MVPN_BIN         the folder of vpnd and m2m-gateway
  CARGO_TARGET_DIR   where programs are built and fetched packages are kept (default: target)

Examples:
  tests/bench/run                                      everything; takes about half an hour
  tests/bench/run --peers m2mvpn,wireguard-trixie --columns tcp --repeat 5
  tests/bench/run --peers m2mvpn --columns tcp --profile /tmp/profile
"""


def main(argv=None):
    """Runs the command with `argv` (default: the program's own) and returns its exit status."""
    options = parse(sys.argv[1:] if argv is None else argv)
    if options.list:
        print(listing())
        return 0
    try:
        if not sandbox.inside():
            return prepare_and_enter(options)
        return run(options)
    except BenchError as error:
        print(f"tests/bench/run: {error}", file=sys.stderr)
        return 1


def parse(argv):
    """Reads the arguments; leaves the program with status 2 when they are wrong."""
    parser = argparse.ArgumentParser(
        prog="tests/bench/run", description=ABOUT, epilog=NOTES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peers", metavar="NAMES", type=names("peer", PEERS), help="only these, comma-separated (see --list)"
    )
    parser.add_argument(
        "--columns", metavar="NAMES", type=names("column", COLUMNS), help="only these, comma-separated (see --list)"
    )
    parser.add_argument(
        "--repeat", metavar="N", type=number(1, 100), default=3, help="repetitions; the median counts (default: 3)"
    )
    parser.add_argument(
        "--seconds", metavar="S", type=number(1, 60), default=5, help="length of one TCP transfer (default: 5)"
    )
    parser.add_argument(
        "--idle-window",
        metavar="S",
        type=number(300, 86400),
        default=900,
        help="what idle is measured over at least (default: 900)",
    )
    parser.add_argument(
        "--json", metavar="FILE", type=Path, help="write every figure and every single measurement to this file"
    )
    parser.add_argument(
        "--profile", metavar="DIR", type=Path, help="perf record each peer's two sides in column tcp, into this folder"
    )
    parser.add_argument("--no-page", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument(
        "--smoke", action="store_true", help="in under a minute: only that m2mvpn and the benchmark itself work"
    )
    parser.add_argument("--list", action="store_true", help="say what peers and columns there are, and exit")
    options = parser.parse_args(argv)
    if options.json:
        options.json = options.json.absolute()
    if options.profile:
        options.profile = options.profile.absolute()
    return options


def names(what, known):
    """An argument type: comma-separated names of `known`, in the order of `known`."""

    def read(text):
        wanted = [name.strip() for name in text.split(",") if name.strip()]
        keys = [item.key for item in known]
        wrong = [name for name in wanted if name not in keys]
        if wrong or not wanted:
            raise argparse.ArgumentTypeError(
                f"no {what} {', '.join(wrong) or repr(text)}; expected some of {', '.join(keys)}"
            )
        return [item for item in known if item.key in wanted]

    return read


def number(least, most):
    """An argument type: a whole number from `least` to `most`."""

    def read(text):
        if not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"expected a whole number from {least} to {most}, found {text!r}")
        return int(text)

    return read


def listing():
    """What `--list` prints."""
    lines = ["Peers:"]
    lines += [f"  {peer.key:<24} {peer.about}" for peer in PEERS]
    lines += ["", "Columns:"]
    lines += [f"  {column.key:<24} {column.about}" for column in COLUMNS]
    return "\n".join(lines)


def prepare_and_enter(options):
    """Outside of the sandbox: fetches what is missing, then does the rest inside and returns its exit status."""
    if os.geteuid() != 0:
        raise BenchError("root is needed for namespaces; use sudo")
    selected = smoke.peers() if options.smoke else options.peers or PEERS
    programs.prepare(selected)
    return sandbox.enter(sys.argv, programs.layers())


def run(options):
    """Inside of the sandbox: measures, and reports."""
    if options.smoke:
        return smoke.run(Programs())
    columns = options.columns or COLUMNS
    results = Results(options.json, machine.facts(), kept(options))
    with Bench(options, results) as bench:
        for peer in options.peers or PEERS:
            bench.admit(peer(Programs()))
        for column in columns:
            column.begin(bench)
        for column in sorted(columns, key=lambda column: column.background):
            step(f"column {column.key}: {column.about}")
            column.measure(bench)
    results.finish(machine.load())
    table = report.markdown(results, columns)
    print(table)
    if options.no_page:
        return 0
    page = PAGE.relative_to(PROJECT)
    if options.columns or options.peers:
        step(f"{page} is left as it is: only a complete run is written there")
    else:
        report.write_into(PAGE, table)
        step(f"written into {page}")
    return 0


def kept(options):
    """The options as the results keep them."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "repeat": options.repeat,
        "seconds": options.seconds,
        "idle_window_s": options.idle_window,
    }
