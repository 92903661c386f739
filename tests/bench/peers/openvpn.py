"""OpenVPN, with certificates and AES-256-GCM.

`keepalive 10 20` is the shortest detection of a dead peer that pings every 10 s (as in OpenVPN's sample files) allow.
The client of the UDP row has the TCP server as its second choice, as sites whose devices meet blocked UDP set it up.
"""

from core.errors import Unmeasured
from core.site import SERVER
from peers.peer import Peer

SERVER_CONF = """\
dev tun
topology subnet
tls-server
mode server
proto {proto}
local {server}
port {port}
server {pool} 255.255.255.0
push "route 10.20.0.0 255.255.255.0"
keepalive 10 20
data-ciphers AES-256-GCM
dh none
ca {certificates.ca}
cert {certificates.server}
key {certificates.server_key}
persist-key
persist-tun
verb 1
"""

CLIENT_CONF = """\
client
dev tun
{remotes}
server-poll-timeout 3
connect-retry 1
nobind
remote-cert-tls server
data-ciphers AES-256-GCM
ca {certificates.ca}
cert {certificates.device}
key {certificates.device_key}
persist-key
persist-tun
verb 1
"""

SERVERS = {"udp": (1194, "udp", "10.91.0.0"), "tcp": (443, "tcp-server", "10.92.0.0")}
REMOTES = {"udp": f"remote {SERVER} 1194 udp", "tcp": f"remote {SERVER} 443 tcp-client"}


class OpenVpnUdp(Peer):
    """UDP, with TCP to fall back on."""

    key = "openvpn-udp"
    title = "OpenVPN UDP"
    about = "OpenVPN over UDP, with TCP as second choice"
    packages = ("openvpn",)
    transports = ("udp", "tcp")

    def check(self, certificates):
        self.programs.on_path("openvpn")

    def start_server(self, site, certificates):
        for transport in self.transports:
            port, proto, pool = SERVERS[transport]
            text = SERVER_CONF.format(certificates=certificates, server=SERVER, port=port, proto=proto, pool=pool)
            site.server.spawn("server", self._command(site, f"server-{transport}.conf", text))
            if not site.wait_for_socket(transport, port, 5):
                raise Unmeasured(f"openvpn does not start: {site.server.last_words('server')}")

    def start_client(self, site, certificates):
        remotes = "\n".join(REMOTES[transport] for transport in self.transports)
        text = CLIENT_CONF.format(certificates=certificates, remotes=remotes)
        site.client.spawn("client", self._command(site, "client.conf", text))

    def _command(self, site, name, text):
        path = site.directory / name
        path.write_text(text)
        return [self.programs.on_path("openvpn"), "--config", path]


class OpenVpnTcp(OpenVpnUdp):
    """TCP only."""

    key = "openvpn-tcp"
    title = "OpenVPN TCP"
    about = "OpenVPN over TCP"
    transports = ("tcp",)
