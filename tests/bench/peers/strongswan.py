"""strongSwan with ESP in user space (kernel-libipsec), IKEv2 with certificates, AES-256-GCM, MOBIKE.

NAT keepalives are strongSwan's default, 20 s; a silent peer is asked after 30 s.
"""

from core.errors import Unmeasured
from core.site import SERVER, wait_until
from peers.peer import Peer

PLUGINS = (
    "random nonce openssl aesni gcm x509 pem pkcs1 pkcs8 pubkey constraints revocation kdf hmac sha1 sha2 aes "
    "kernel-libipsec kernel-netlink socket-default vici updown"
)

DAEMON_CONF = """\
charon {{
    load = {plugins}
    install_virtual_ip = yes
    start-scripts {{
        load = {swanctl} --load-all --uri unix://{directory}/{role}.vici --file {directory}/{role}/swanctl.conf
    }}
    plugins {{
        vici {{
            socket = unix://{directory}/{role}.vici
        }}
    }}
    filelog {{
        stderr {{
            default = 0
            dmn = 1
            ike = 1
        }}
    }}
}}
swanctl {{
    load = random nonce openssl x509 pem pkcs1 pkcs8 pubkey constraints
}}
"""

COMMON = """\
        version = 2
        proposals = aes256gcm16-prfsha384-ecp256
        dpd_delay = 30s
        mobike = yes
        encap = yes
        children {{
            net {{
                esp_proposals = aes256gcm16-ecp256
                {child}
            }}
        }}
"""

SERVER_CONF = """\
connections {{
    devices {{
        local_addrs = {server}
        pools = inner
        local {{
            auth = pubkey
            certs = {certificates.server}
            id = {server}
        }}
        remote {{
            auth = pubkey
            cacerts = {certificates.ca}
        }}
{common}
    }}
}}
pools {{
    inner {{
        addrs = 10.94.0.0/24
    }}
}}
"""

CLIENT_CONF = """\
connections {{
    gateway {{
        remote_addrs = {server}
        vips = 0.0.0.0
        keyingtries = 0
        local {{
            auth = pubkey
            certs = {certificates.device}
        }}
        remote {{
            auth = pubkey
            cacerts = {certificates.ca}
            id = {server}
        }}
{common}
    }}
}}
"""


class StrongSwan(Peer):
    """ESP in UDP, in user space."""

    key = "strongswan"
    title = "strongSwan, kernel-libipsec"
    about = "strongSwan, IKEv2, ESP in user space (kernel-libipsec)"
    packages = ("strongswan-charon", "libcharon-extra-plugins", "libstrongswan-standard-plugins", "strongswan-swanctl")

    def check(self, certificates):
        for name in ("charon", "swanctl"):
            self.programs.on_path(name)

    def start_server(self, site, certificates):
        child = "local_ts = 10.20.0.0/24\n                start_action = none"
        self._start(site, site.server, "server", SERVER_CONF, child, certificates, certificates.server_key)
        if not wait_until(lambda: "loaded connection" in site.server.log("server"), 5):
            raise Unmeasured(f"charon does not start: {site.server.last_words('server')}")

    def start_client(self, site, certificates):
        child = "remote_ts = 10.20.0.0/24\n                start_action = start"
        self._start(site, site.client, "client", CLIENT_CONF, child, certificates, certificates.device_key)

    def _start(self, site, node, role, text, child, certificates, key):
        directory = site.directory
        common = COMMON.format(child=child)
        private = directory / role / "private"
        private.mkdir(parents=True, exist_ok=True)
        (private / "own.key").write_bytes(key.read_bytes())
        text = text.format(certificates=certificates, common=common, server=SERVER)
        (directory / role / "swanctl.conf").write_text(text)
        swanctl = self.programs.on_path("swanctl")
        daemon = DAEMON_CONF.format(directory=directory, role=role, swanctl=swanctl, plugins=PLUGINS)
        (directory / f"{role}.conf").write_text(daemon)
        environment = {"STRONGSWAN_CONF": str(directory / f"{role}.conf"), "SWANCTL_DIR": str(directory / role)}
        # charon's file with its process id has a fixed name, so each gets a file of its own under that name.
        own_pid_file = 'touch "$1" /run/charon.pid && mount --bind "$1" /run/charon.pid && exec "$0"'
        command = ["unshare", "--mount", "sh", "-c", own_pid_file, self.programs.on_path("charon")]
        node.spawn(role, [*command, directory / f"{role}.pid"], environment)
