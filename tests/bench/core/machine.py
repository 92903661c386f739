"""What the figures were measured on."""

import os
import platform
from pathlib import Path


def facts():
    """Processor, cores, memory, kernel, TCP and load of this machine."""
    memory = read_table("/proc/meminfo")["MemTotal"].split()[0]
    return {
        "cpu": read_table("/proc/cpuinfo").get("model name", "unknown"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "tcp_congestion_control": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "load_before": load(),
    }


def load():
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


def read_table(path):
    """A file of lines `key : value`; the first one of each key."""
    table = {}
    for line in Path(path).read_text().splitlines():
        key, colon, value = line.partition(":")
        if colon:
            table.setdefault(key.strip(), value.strip())
    return table
