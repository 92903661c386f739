"""One run: the peers that take part, and what every measurement needs."""

import contextlib
import itertools
import shutil
import tempfile
from pathlib import Path

from core import certificates
from core.errors import BenchError, Unmeasured
from core.progress import step
from core.sandbox import FILES


class Bench:
    """Use it as a context manager: what is still running at the end is ended."""

    def __init__(self, options, results):
        self.repeat = options.repeat
        self.seconds = options.seconds
        self.idle_window_s = options.idle_window
        self.profile = options.profile
        self.results = results
        self.peers = []
        self.open = contextlib.ExitStack()  # what lives as long as the run
        self._tags = (f"b{number}" for number in itertools.count(1))

    def __enter__(self):
        directory = Path(tempfile.mkdtemp(prefix="keys-", dir=FILES))
        directory.chmod(0o755)
        self.open.callback(shutil.rmtree, directory, ignore_errors=True)
        self.certificates = certificates.make(directory)
        return self

    def __exit__(self, *_):
        self.open.close()

    def admit(self, peer):
        """Lets a peer take part, if it can run."""
        self.results.add_peer(peer)
        try:
            peer.check(self.certificates)
            self.results.set_version(peer, peer.version())
        except (Unmeasured, BenchError) as error:
            step(f"{peer.key}: left out: {error}")
            self.results.leave_out(peer, str(error))
            return
        self.peers.append(peer)

    def peers_of(self, column):
        """The admitted peers that have this column."""
        return [peer for peer in self.peers if peer.columns is None or column.key in peer.columns]

    def tag(self):
        """A short name that nothing else in this run has."""
        return next(self._tags)

    @contextlib.contextmanager
    def recording(self, column, peer):
        """Turns what goes wrong in the block into this cell's footnote."""
        try:
            yield
        except (Unmeasured, BenchError) as error:
            step(f"{peer.key}, {column.key}: not measured: {error}")
            self.results.fail(column, peer, str(error))

    def connect(self, peer, site, timeout=15):
        """Starts both sides of a peer in a site, and waits until the tunnel carries a ping."""
        peer.start_server(site, self.certificates)
        peer.start_client(site, self.certificates)
        site.wait_for_tunnel(timeout)

    def each(self, column, measure, peers=None):
        """Does `measure(peer)`, which returns the cell's figures, for one peer after another (default: all it has)."""
        for peer in self.peers_of(column) if peers is None else peers:
            with self.recording(column, peer):
                figures = measure(peer)
                self.results.put(column, peer, figures)
                step(f"  {peer.key}: {', '.join(column.cells(figures))}")
