"""ocserv and openconnect, with certificates.

All times (dead peer detection, keepalive) are those of ocserv's sample file.
"""

from core.errors import Unmeasured
from core.site import SERVER
from peers.peer import Peer

SERVER_CONF = """\
auth = "certificate"
listen-host = {server}
tcp-port = 443
udp-port = 443
run-as-user = nobody
run-as-group = nogroup
socket-file = {directory}/ocserv.sock
pid-file = {directory}/ocserv.pid
use-occtl = false
server-cert = {certificates.server}
server-key = {certificates.server_key}
ca-cert = {certificates.ca}
cert-user-oid = 2.5.4.3
isolate-workers = true
max-clients = 16
max-same-clients = 4
rate-limit-ms = 0
keepalive = 32400
dpd = 90
mobile-dpd = 1800
switch-to-tcp-timeout = 25
try-mtu-discovery = false
cookie-timeout = 300
rekey-time = 172800
rekey-method = ssl
device = vpns
predictable-ips = true
ipv4-network = 10.93.0.0
ipv4-netmask = 255.255.255.0
route = 10.20.0.0/255.255.255.0
ping-leases = false
cisco-client-compat = true
dtls-legacy = true
"""

# What vpnc-script does of what is needed here.
SCRIPT = """\
#!/bin/sh
[ "$reason" = connect ] || exit 0
exec ip -batch - <<END
address replace $INTERNAL_IP4_ADDRESS/32 dev $TUNDEV
link set $TUNDEV mtu $INTERNAL_IP4_MTU up
route replace $CISCO_SPLIT_INC_0_ADDR/$CISCO_SPLIT_INC_0_MASKLEN dev $TUNDEV
END
"""


class OcservDtls(Peer):
    """DTLS, with TLS to fall back on."""

    key = "ocserv-dtls"
    title = "ocserv DTLS"
    about = "ocserv and openconnect over DTLS, which falls back on TLS by itself"
    packages = ("ocserv", "openconnect")
    options = ()

    def check(self, certificates):
        for name in ("ocserv", "openconnect"):
            self.programs.on_path(name)

    def start_server(self, site, certificates):
        site.directory.chmod(0o755)
        config = site.directory / "ocserv.conf"
        config.write_text(SERVER_CONF.format(certificates=certificates, directory=site.directory, server=SERVER))
        site.server.spawn("server", [self.programs.on_path("ocserv"), "--foreground", "--config", config])
        if not site.wait_for_socket("tcp", 443, 5):
            raise Unmeasured(f"ocserv does not start: {site.server.last_words('server')}")

    def start_client(self, site, certificates):
        script = site.directory / "vpnc-script"
        script.write_text(SCRIPT)
        script.chmod(0o755)
        command = [self.programs.on_path("openconnect"), "--non-inter", "--protocol", "anyconnect"]
        command += ["--script", script, "--reconnect-timeout", "60", "--cafile", certificates.ca, "--no-system-trust"]
        command += ["--certificate", certificates.device, "--sslkey", certificates.device_key]
        site.client.spawn("client", [*command, *self.options, f"https://{SERVER}"])


class OcservTls(OcservDtls):
    """TLS only."""

    key = "ocserv-tls"
    title = "ocserv TLS"
    about = "ocserv and openconnect over TLS"
    options = ("--no-dtls",)
