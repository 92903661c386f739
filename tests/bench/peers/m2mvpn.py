"""m2mvpn: vpnd and m2m-gateway, set up by two files as docs/standalone.md says."""

from core.errors import Unmeasured
from core.node import run
from core.site import SERVER, Site
from peers.peer import Peer

GATEWAY_TOML = """\
state_dir = "{directory}/gateway"
client_ca = "{certificates.ca}"
routes = ["10.20.0.0/24"]

[identity]
certificate = "{certificates.server}"
key = "{certificates.server_key}"

[pool]
ipv4 = "10.99.0.0/16"
ipv6 = "fd99::/64"
"""

VPND_TOML = """\
state_dir = "{directory}/vpnd"
socket = "{directory}/vpnd.sock"
trust_anchor = "{certificates.ca}"
firewall = false
dns = "none"

[identity.pem]
certificate = "{certificates.device}"
key = "{certificates.device_key}"

[[tunnel.gateway]]
origin = "https://{server}"
"""


class M2mvpnHttp3(Peer):
    """As it is by default."""

    key = "m2mvpn"
    title = "**m2mvpn, HTTP/3**"
    about = "vpnd and m2m-gateway, as they choose by themselves"
    ours = True
    gateway_toml = GATEWAY_TOML
    vpnd_toml = VPND_TOML

    def check(self, certificates):
        for name in ("vpnd", "m2m-gateway"):
            self.programs.ours(name)

    def version(self):
        return run([self.programs.ours("vpnd"), "--version"]).strip()

    def start_server(self, site, certificates):
        config = self._write(site, "gateway.toml", self.gateway_toml, certificates)
        server = site.server.spawn("server", [self.programs.ours("m2m-gateway"), "--config", config])
        if not site.wait_for_socket("udp", 443, 5):
            raise Unmeasured(f"m2m-gateway does not start ({server.poll()}): {site.server.last_words('server')}")

    def start_client(self, site, certificates):
        config = self._write(site, "vpnd.toml", self.vpnd_toml, certificates)
        site.client.spawn("client", [self.programs.ours("vpnd"), "--config", config])

    def _write(self, site, name, text, certificates):
        path = site.directory / name
        path.write_text(text.format(directory=site.directory, certificates=certificates, server=SERVER))
        return path


class M2mvpnHttp2(M2mvpnHttp3):
    """Where UDP does not pass, so that it has to take HTTP/2."""

    key = "m2mvpn-http2"
    title = "**m2mvpn, HTTP/2**"
    about = "the same where UDP does not pass"
    columns = ("tcp", "start", "idle", "switch", "bloat")

    def check(self, certificates):
        super().check(certificates)
        with Site.direct("trial") as site:
            self.start_server(site, certificates)
            self.start_client(site, certificates)
            try:
                site.wait_for_tunnel(10)
            except Unmeasured:
                raise Unmeasured("this build makes no tunnel where UDP is blocked, within 10 s") from None

    def start_server(self, site, certificates):
        site.block_udp()
        super().start_server(site, certificates)
