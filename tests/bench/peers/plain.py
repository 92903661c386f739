"""What a tunnel is held against: no tunnel at all, and nothing but the cipher."""

from core.errors import Unmeasured
from core.node import run
from core.site import SERVER, TARGET
from peers.peer import Peer


class Plain(Peer):
    """The inner target, reached over the link itself."""

    key = "plain"
    title = "veth without tunnel, 1500-byte packets"
    about = "no tunnel: the link itself, without segmentation offload"
    offload = False
    columns = ("tcp", "bloat")

    def start_client(self, site, certificates):
        if site.wan:
            site.wan.ip(f"route replace {TARGET}/32 via {SERVER}")
        else:
            site.client.ip(f"route replace {TARGET}/32 via {SERVER}")


class Cipher(Peer):
    """The cipher alone: what no tunnel can be cheaper than."""

    key = "cipher"
    title = "AES-256-GCM alone"
    about = "openssl speed, 1400 bytes at a time, on one core"
    columns = ("tcp",)

    def version(self):
        return run(["openssl", "version"]).strip()

    def speed(self, seconds):
        """Bytes per second that one core encrypts."""
        command = f"openssl speed -mr -seconds {seconds} -bytes 1400 -aead -evp aes-256-gcm".split()
        for line in run(command).splitlines():
            kind, _, rest = line.partition(":")
            if kind == "+F":
                return float(rest.split(":")[-1])
        raise Unmeasured("openssl speed gives no figure")
