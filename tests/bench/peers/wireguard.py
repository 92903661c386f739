"""WireGuard in user space: wireguard-go of two Debian releases, and boringtun.

They are configured over their socket, as wg(8) does it. PersistentKeepalive is 25 s, as wg(8) recommends behind a NAT.
"""

import contextlib
import os
import socket

from core.certificates import x25519
from core.errors import Unmeasured
from core.node import run
from core.site import SERVER, TARGET_NET, wait_until
from peers.peer import Peer

PORT = 51820
MTU = 1420  # the default of wg-quick(8) over a link of 1500


class WireGuard(Peer):
    """What all of them have in common."""

    def program(self):
        """The path of the program. Raises [`Unmeasured`]."""
        raise NotImplementedError

    def command(self, interface):
        """The command that makes `interface` and stays in the foreground."""
        return [self.program(), "--foreground", interface]

    def check(self, certificates):
        self.program()

    def start_server(self, site, certificates):
        site.keys = x25519(), x25519()
        (secret, _), (_, device) = site.keys
        interface = f"{site.tag}-s"
        site.server.spawn("server", self.command(interface), {"LOG_LEVEL": "error"})
        device = (f"public_key={device}", "allowed_ip=10.90.0.2/32")
        configure(interface, f"private_key={secret}", f"listen_port={PORT}", *device)
        site.server.ip(f"address add 10.90.0.1/24 dev {interface}", f"link set {interface} mtu {MTU} up")

    def start_client(self, site, certificates):
        (_, server), (secret, _) = site.keys
        interface = f"{site.tag}-c"
        site.client.spawn("client", self.command(interface), {"LOG_LEVEL": "error"})
        peer = (f"public_key={server}", f"endpoint={SERVER}:{PORT}", f"allowed_ip={TARGET_NET}")
        peer += ("persistent_keepalive_interval=25",)
        configure(interface, f"private_key={secret}", *peer)
        site.client.ip(
            f"address add 10.90.0.2/24 dev {interface}",
            f"link set {interface} mtu {MTU} up",
            f"route add {TARGET_NET} dev {interface}",
        )

    def stop_client(self, site):
        super().stop_client(site)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(control(f"{site.tag}-c"))


class WireGuardTrixie(WireGuard):
    """The one with segmentation offload."""

    key = "wireguard-trixie"
    title = "wireguard-go, Debian trixie (GSO/GRO)"
    about = "wireguard-go as packaged in Debian trixie"
    other_releases = (("trixie", "wireguard-go"),)

    def program(self):
        [(release, package)] = self.other_releases
        return self.programs.of_release(release, package)

    def version(self):
        [(release, package)] = self.other_releases
        return self.programs.version_of_release(release, package)


class WireGuardBookworm(WireGuardTrixie):
    """The one without."""

    key = "wireguard-bookworm"
    title = "wireguard-go, Debian bookworm"
    about = "wireguard-go as packaged in Debian bookworm"
    other_releases = (("bookworm", "wireguard-go"),)


class BoringTun(WireGuard):
    """WireGuard in Rust."""

    key = "boringtun"
    title = "boringtun"
    about = "boringtun-cli from crates.io"
    crates = ("boringtun-cli",)

    def program(self):
        return self.programs.of_crate("boringtun-cli")

    def command(self, interface):
        return [self.program(), "--foreground", "--disable-drop-privileges", "--verbosity", "error", interface]

    def version(self):
        return run([self.program(), "--version"]).strip()


def configure(interface, *lines):
    """Waits for the socket of `interface` and sets the lines through it (the cross-platform interface of WireGuard)."""
    path = control(interface)
    if not wait_until(lambda: os.path.exists(path), 5, interval=0.001):
        raise Unmeasured(f"{path} does not appear")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        if not wait_until(lambda: connection.connect_ex(path) == 0, 5, interval=0.001):
            raise Unmeasured(f"nothing answers on {path}")
        connection.sendall("\n".join(["set=1", *lines, "", ""]).encode())
        answer = connection.recv(4096).decode()
    if "errno=0" not in answer:
        raise Unmeasured(f"WireGuard refuses its configuration: {answer.strip()}")


def control(interface):
    """The path of an interface's socket."""
    return f"/run/wireguard/{interface}.sock"
