"""A place of its own for a run: private PID, mount, network, UTS and IPC namespaces, in which the kernel ends
everything with it.

Inside, /run is an empty tmpfs and /usr is this machine's with the unpacked packages over it.
"""

import os
import signal
import subprocess
import sys

from core.errors import BenchError

MARK = "M2MVPN_BENCH_LAYERS"
FILES = "/run"  # where a run makes its files: they go with the sandbox


def inside():
    """Whether this process is in the sandbox."""
    return MARK in os.environ


def enter(argv, layers):
    """Runs `argv` in a sandbox with the folders `layers` over /usr, waits, and returns its exit status."""
    environment = dict(os.environ, **{MARK: ":".join(str(layer) for layer in layers)})
    # The shell stays: as PID 1 it collects processes whose parents have ended.
    mounts = 'mount -t tmpfs tmpfs /run; [ -z "$0" ] || mount -t overlay overlay -o "lowerdir=$0:/usr" /usr; "$@"; exit'
    unshare = ["unshare", "--mount", "--propagation", "private", "--pid", "--mount-proc", "--net", "--uts", "--ipc"]
    command = ["setpriv", "--pdeathsig", "KILL", *unshare, "--fork", "--kill-child=SIGKILL"]
    command += ["sh", "-e", "-c", mounts, environment[MARK], sys.executable, *argv]
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    # In a session of its own, so that Ctrl-C reaches only this process, which then ends all of it.
    child = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        child.kill()
        child.wait()
        raise BenchError("interrupted") from None
    if status < 0:
        raise BenchError(f"the run was ended by signal {-status}")
    return status
