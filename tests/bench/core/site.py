"""The networks that peers are measured in.

    direct    client ------------------- server     segmentation left to the link, as to a network card
    delayed   client ------ relay ------ server     1500-byte packets, held back on both ways
    routed    client =(1-2)= wan ------- server     1500-byte packets, a NAT in the way

Behind the server lies the inner target; nothing but a tunnel leads there.
"""

import ipaddress
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from core.errors import Unmeasured
from core.node import Node
from core.pinger import Pinger
from core.sandbox import FILES

CLIENT = "198.51.100.2"  # where there is no router
SERVER = "198.51.100.10"
TARGET = "10.20.0.80"
TARGET_NET = "10.20.0.0/24"
POOLS = ipaddress.ip_network("10.64.0.0/10")  # the inner addresses of all peers' clients
# The uplinks of the client in a routed site: interface, the client's address, the router's address.
UPLINKS = (("up0", "192.0.2.2", "192.0.2.1"), ("up1", "203.0.113.2", "203.0.113.1"))


class Site:
    """A client, a server and what is between them. Use it as a context manager."""

    def __init__(self, tag):
        self.tag = tag
        self.directory = Path(tempfile.mkdtemp(prefix=f"{tag}-", dir=FILES))
        self.client = Node(f"{tag}-client", self.directory)
        self.server = Node(f"{tag}-server", self.directory)
        self.wan = None
        self.uplinks = []
        self.server.ip(f"address add {TARGET}/32 dev lo")
        self.server.sysctl(ipv4__ip_forward=1)

    @classmethod
    def direct(cls, tag, offload=True):
        """Client and server on one cable."""
        site = cls(tag)
        site._cable(End(site.client, "up0", CLIENT), End(site.server, "srv0", SERVER), offload)
        site.uplinks = ["up0"]
        return site

    @classmethod
    def delayed(cls, tag, delay_s):
        """Client and server on one cable that holds every frame back by `delay_s`, on both ways."""
        site = cls(tag)
        site.wan = Node(f"{tag}-wan", site.directory)
        client, server = End(site.client, "up0", CLIENT), End(site.server, "srv0", SERVER)
        site._cable(client, End(site.wan, "left"), offload=False)
        site._cable(End(site.wan, "right"), server, offload=False)
        client.knows(server)
        server.knows(client)
        site.uplinks = ["up0"]
        relay = Path(__file__).with_name("relay.py")
        site.wan.spawn("relay", [sys.executable, relay, "left", "right", str(delay_s)])
        with Pinger(site.client, SERVER, 0.02) as pinger:
            if pinger.wait_for_reply(5 + 4 * delay_s) is None:
                raise Unmeasured(f"the delayed link does not work: {site.wan.last_words('relay')}")
        return site

    @classmethod
    def routed(cls, tag, uplinks=1):
        """The client behind one or two uplinks, whose router translates addresses; its UDP mappings live for 120 s."""
        site = cls(tag)
        site.wan = Node(f"{tag}-wan", site.directory)
        site._cable(End(site.wan, "w-srv", "198.51.100.1"), End(site.server, "srv0", SERVER), offload=False)
        for order, (name, address, router) in enumerate(UPLINKS[:uplinks]):
            site._cable(End(site.client, name, address), End(site.wan, f"w-{name}", router), offload=False)
            site.client.ip(f"route add default via {router} dev {name} metric {100 + 100 * order}")
            site.uplinks.append(name)
        site.wan.sysctl(ipv4__ip_forward=1)
        site._nft("add table inet nat", "add chain inet nat post { type nat hook postrouting priority 100; }")
        site._nft("add rule inet nat post oifname w-srv masquerade")
        site.wan.sysctl(netfilter__nf_conntrack_udp_timeout=120, netfilter__nf_conntrack_udp_timeout_stream=120)
        return site

    def block_udp(self):
        """From now on no UDP packet passes, in either direction; nobody is told."""
        where, chains = (self.wan, ("forward",)) if self.wan else (self.server, ("input", "output"))
        lines = ["add table inet block"]
        for chain in chains:
            lines.append(f"add chain inet block {chain} {{ type filter hook {chain} priority 0; }}")
            lines.append(f"add rule inet block {chain} meta l4proto udp drop")
        self._nft(*lines, node=where)

    def limit(self, mbit, queue_s):
        """Limits the way to the server; the queue before the limit holds `queue_s` seconds of it and drops the rest."""
        queue = int(mbit * 1e6 / 8 * queue_s)
        qdisc = f"tc qdisc replace dev w-srv root tbf rate {mbit}mbit burst 3028 limit {queue}"
        self.wan.run(qdisc.split())

    def cut(self, uplink):
        """An uplink loses its link, and the machine's network manager takes its address and so its routes away."""
        self.client.ip(f"link set {uplink} down", f"address flush dev {uplink}")

    def wire(self):
        """Packets and IP bytes that went over the first uplink, both ways.

        The 14 bytes of Ethernet are left out: a modem has none.
        """
        [link] = self.client.ip_json("-s", "link", "show", "dev", self.uplinks[0])
        counts = [link["stats64"][way] for way in ("rx", "tx")]
        packets = sum(count["packets"] for count in counts)
        return packets, sum(count["bytes"] for count in counts) - 14 * packets

    def inner_link(self):
        """The client's interface that has an inner address, as ip(8) describes it, and that address.

        Raises [`Unmeasured`].
        """
        for link in self.client.ip_json("-4", "address", "show"):
            for address in link["addr_info"]:
                if ipaddress.ip_address(address["local"]) in POOLS:
                    return link, address["local"]
        raise Unmeasured("the client has no inner address")

    def wait_for_socket(self, protocol, port, timeout):
        """Whether a program of the server has a socket on this port ("udp" or "tcp"), within `timeout` seconds."""
        return wait_until(lambda: self.server.has_socket(protocol, port), timeout)

    def wait_for_tunnel(self, timeout, target=TARGET):
        """Waits until a ping through the tunnel is answered. Raises [`Unmeasured`] when none is."""
        with Pinger(self.client, target, 0.02) as pinger:
            if pinger.wait_for_reply(timeout) is None:
                words = self.client.last_words("client") or "nothing"
                raise Unmeasured(f"no ping was answered within {timeout:g} s; the client's last words: {words}")

    def close(self):
        """Ends and removes everything."""
        for node in (self.client, self.server, self.wan):
            if node:
                node.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _cable(self, left, right, offload):
        """Joins two nodes."""
        peer = f"peer name {right.interface} address {right.hardware} netns {right.node.name}"
        left.node.ip(f"link add {left.interface} address {left.hardware} type veth {peer}")
        for end in (left, right):
            end.node.sysctl(**{f"ipv6__conf__{end.interface}__disable_ipv6": 1})
            if not offload:
                # Checksums too: the relay hands frames on as they are.
                features = "tso off gso off gro off tx off rx off"
                end.node.run(["ethtool", "-K", end.interface, *features.split()])
            end.node.ip(f"link set {end.interface} up")
            if end.address:
                end.node.ip(f"address add {end.address}/24 dev {end.interface}")
        left.knows(right)
        right.knows(left)

    def _nft(self, *lines, node=None):
        (node or self.wan).run(["nft", "-f", "-"], input="\n".join(lines) + "\n")


@dataclass
class End:
    """One end of a cable."""

    node: Node
    interface: str
    address: str = ""

    @property
    def hardware(self):
        """Its Ethernet address, which its name decides."""
        return "02:00:" + ":".join(f"{byte:02x}" for byte in self.interface.encode()[-4:].rjust(4, b"0"))

    def knows(self, other):
        """From now on this end needs no ARP to find the other one, so that none is on the wire."""
        if self.address and other.address:
            entry = f"{other.address} lladdr {other.hardware} dev {self.interface}"
            self.node.ip(f"neighbour replace {entry} nud permanent")


def wait_until(condition, timeout, interval=0.01):
    """Whether `condition()` became true within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True
