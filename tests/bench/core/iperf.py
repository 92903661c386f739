"""One TCP transfer by iperf3 through a tunnel."""

import json
import subprocess
from dataclasses import dataclass

from core.errors import Unmeasured
from core.site import TARGET

PORT = 5201
CONGESTION_CONTROL = "cubic"  # Debian's default, whatever this machine's is


@dataclass
class Transfer:
    """What arrived."""

    bytes: int
    seconds: float

    @property
    def mbit_s(self):
        """Mbit/s of TCP payload at the receiver."""
        return self.bytes * 8 / self.seconds / 1e6


def transfer(site, seconds, down, target=TARGET):
    """Sends as much as passes for `seconds`, from the client to `target` or, when `down`, back.

    Raises [`Unmeasured`].
    """
    server = site.server.spawn("iperf3-server", ["iperf3", "--server", "--bind", target, "--one-off"])
    try:
        if not site.wait_for_socket("tcp", PORT, 5):
            raise Unmeasured("iperf3 does not start")
        command = ["iperf3", "--client", target, "--time", str(seconds), "--json", "--connect-timeout", "5000"]
        command += ["--congestion", CONGESTION_CONTROL]
        with site.client.entered():
            result = subprocess.run(
                command + ["--reverse"] * down, capture_output=True, text=True, timeout=seconds + 20
            )
    except subprocess.TimeoutExpired:
        raise Unmeasured("iperf3 did not end: the transfer stopped") from None
    finally:
        server.kill()
        server.wait()
    try:
        answer = json.loads(result.stdout)
    except ValueError:
        raise Unmeasured(f"iperf3: {(result.stderr or result.stdout).strip()[-100:] or 'no answer'}") from None
    if "error" in answer:
        raise Unmeasured(f"iperf3: {answer['error']}")
    received = answer["end"]["sum_received"]
    if received["bytes"] <= 0:
        raise Unmeasured("iperf3: not one byte arrived")
    return Transfer(received["bytes"], received["seconds"])
