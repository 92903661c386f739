"""One machine of the benchmark's network: a network namespace, and what runs in it."""

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

from core.errors import BenchError

CLONE_NEWNET = 0x40000000
TCP_LISTEN = "0A"
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
# What the benchmark itself runs beside a peer; never counted as the peer's.
OWN_PROGRAMS = ("iperf3", "perf", "tc", "ip")

libc = ctypes.CDLL(None, use_errno=True)


class Node:
    """A network namespace. `close` ends what runs in it and removes it."""

    def __init__(self, name, logs):
        self.name = name
        self.logs = logs
        run(["ip", "netns", "add", name])
        self._namespace = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
        self._inode = os.fstat(self._namespace).st_ino
        self.ip("link set lo up")

    @contextlib.contextmanager
    def entered(self):
        """This thread is in the namespace while the block runs: so are its sockets, its children and /proc/sys/net."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            enter(self._namespace)
            yield
        finally:
            enter(home)
            os.close(home)

    def ip(self, *lines):
        """Runs the lines as commands of ip(8)."""
        run(["ip", "-n", self.name, "-batch", "-"], input="\n".join(lines) + "\n")

    def ip_json(self, *arguments):
        """What ip(8) says, as data."""
        return json.loads(run(["ip", "-n", self.name, "-json", *arguments]) or "[]")

    def run(self, command, **options):
        """Runs a command in the namespace and returns its standard output.

        Raises [`BenchError`] with its last words when it fails.
        """
        with self.entered():
            return run(command, **options)

    def sysctl(self, **values):
        """Sets values below /proc/sys/net; two underscores stand for a slash."""
        with self.entered():
            for key, value in values.items():
                Path("/proc/sys/net", key.replace("__", "/")).write_text(str(value))

    def socket(self, *arguments):
        """A socket of the namespace."""
        with self.entered():
            return socket.socket(*arguments)

    def spawn(self, name, command, environment=None, stdout=None):
        """Starts a program of a peer; it writes to the log `name`."""
        command = [str(part) for part in command]
        with self.entered(), open(self.logs / f"{name}.log", "ab") as log:
            try:
                return subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=stdout or log,
                    stderr=log,
                    env=dict(os.environ, **(environment or {})),
                    start_new_session=True,
                )
            except OSError as error:
                raise BenchError(f"{command[0]}: {error.strerror}") from None

    def log(self, name):
        """What a program has written to the log `name`."""
        path = self.logs / f"{name}.log"
        return path.read_text(errors="replace") if path.is_file() else ""

    def last_words(self, name):
        """The last line of a log that is not empty, or nothing."""
        return next((line.strip() for line in reversed(self.log(name).splitlines()) if line.strip()), "")

    def processes(self, everything=False):
        """The process ids of the peer's programs in this namespace; with `everything` also those of the benchmark."""
        found = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):
                here = os.stat(entry / "ns" / "net").st_ino == self._inode
                if here and (everything or (entry / "comm").read_text().strip() not in OWN_PROGRAMS):
                    found.append(int(entry.name))
        return found

    def has_socket(self, protocol, port):
        """Whether there is a bound UDP or a listening TCP socket on this port."""
        with self.entered():
            tables = [Path(f"/proc/thread-self/net/{kind}").read_text() for kind in (protocol, f"{protocol}6")]
        rows = [line.split() for table in tables for line in table.splitlines()[1:]]
        bound = [row for row in rows if row[1].endswith(f":{port:04X}")]
        return any(protocol == "udp" or row[3] == TCP_LISTEN for row in bound)

    def cpu_seconds(self):
        """User and system time of the peer's programs, all threads, by process id."""
        times = {}
        for pid in self.processes():
            with contextlib.suppress(OSError):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                times[pid] = (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND
        return times

    def memory_bytes(self, field="VmRSS"):
        """Memory of the peer's programs: VmRSS (resident now) or VmHWM (the most that was)."""
        total = 0
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                    if line.startswith(f"{field}:"):
                        total += int(line.split()[1]) * 1024
        return total

    def end_processes(self, grace=2.0):
        """Ends everything that runs in the namespace: SIGTERM, then SIGKILL after `grace` seconds."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            for pid in self.processes(everything=True):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + patience
            while time.monotonic() < deadline:
                if not self.processes(everything=True):
                    return
                time.sleep(0.02)
        raise BenchError(f"processes {self.processes(everything=True)} in {self.name} do not end")

    def close(self):
        """Ends what runs here and removes the namespace."""
        self.end_processes(grace=0.5)
        os.close(self._namespace)
        run(["ip", "netns", "delete", self.name])


def run(command, **options):
    """Runs a command and returns its standard output. Raises [`BenchError`] with its last words when it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, **options)
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from None
    if result.returncode != 0:
        words = (result.stderr.strip() or result.stdout.strip() or f"exit status {result.returncode}").splitlines()[-1]
        raise BenchError(f"{command[0]}: {words}")
    return result.stdout


def enter(namespace):
    """Moves this thread into a network namespace."""
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise BenchError(f"setns: {os.strerror(ctypes.get_errno())}")
