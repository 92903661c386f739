"""What the benchmark asks of a peer."""


class Peer:
    """A VPN: a server in front of the inner target, and a client."""

    key = ""
    title = ""
    about = ""
    packages = ()  # Debian packages of this machine's release
    other_releases = ()  # (release, package): single programs of other Debian releases
    crates = ()  # programs from crates.io
    ours = False  # whether it is m2mvpn
    offload = True  # whether the link of a direct site takes segments larger than a packet, as a network card does
    columns = None  # the keys of the columns that make sense for it; None for all

    def __init__(self, programs):
        self.programs = programs

    def check(self, certificates):
        """Raises [`Unmeasured`] when it cannot run at all."""

    def version(self):
        """What version it is, in a few words."""
        return ", ".join(self.programs.package_version(package) for package in self.packages[:2])

    def start_server(self, site, certificates):
        """Starts the server and returns when it is ready.

        What it needs of keys and files it makes in `site.directory`.
        """

    def start_client(self, site, certificates):
        """Starts the client and returns at once. Its log is `client`."""

    def stop_client(self, site):
        """Ends the client in order, so that it can be started again."""
        site.client.end_processes()
