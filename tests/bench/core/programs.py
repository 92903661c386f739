"""Where the programs come from: built here, unpacked from Debian packages, or made by cargo.

Nothing is installed on the machine.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from core.errors import BenchError, Unmeasured
from core.progress import step

PROJECT = Path(__file__).resolve().parents[3]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or PROJECT / "target").absolute()
CACHE = TARGET / "bench"
LAYER = CACHE / "packages"
VERSIONS = "versions"

# What the benchmark itself runs.
TOOLS = ["iperf3", "ethtool", "iproute2", "nftables", "openssl"]


def prepare(peers):
    """Fetches and builds what `peers` (classes) need and is missing.

    The tools must come; a peer may stay without its program.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    unpack_missing(TOOLS, sorted({package for peer in peers for package in peer.packages}))
    for release, package in sorted({single for peer in peers for single in peer.other_releases}):
        attempt(f"{package} of {release}", unpack_single, release, package)
    for crate in sorted({crate for peer in peers for crate in peer.crates}):
        attempt(crate, build_crate, crate)
    if any(peer.ours for peer in peers) and "M2MVPN_BIN" not in os.environ:
        step("building vpnd and m2m-gateway (release)")
        build = ["cargo", "build", "--locked", "--release", "-p", "vpnd", "-p", "m2m-gateway"]
        if subprocess.run(build, cwd=PROJECT).returncode != 0:
            raise BenchError("vpnd and m2m-gateway cannot be built; M2MVPN_BIN can name a folder that has them")


def layers():
    """The folders that the sandbox lays over /usr."""
    usr = LAYER / "usr"
    return [usr] if usr.is_dir() else []


class Programs:
    """The programs of a run. Those of Debian packages are on the PATH, in the sandbox."""

    def ours(self, name):
        """The path of one of m2mvpn's programs. Raises [`BenchError`] when it is not there."""
        folder = Path(os.environ.get("M2MVPN_BIN") or TARGET / "release").absolute()
        if not (folder / name).is_file():
            raise BenchError(f"expected {name} in {folder}")
        return str(folder / name)

    def on_path(self, name):
        """The path of a program of the Debian packages. Raises [`Unmeasured`] when it is not there."""
        found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/lib/ipsec")
        if not found:
            raise Unmeasured(f"{name} is not there: its Debian package could not be fetched")
        return found

    def package_version(self, package, folder=LAYER):
        """The version of a Debian package that was unpacked, or that is installed."""
        for line in (folder / VERSIONS).read_text().splitlines() if (folder / VERSIONS).is_file() else []:
            name, version = line.split()
            if name == package:
                return f"{package} {version}"
        query = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Package} ${Version}", package], capture_output=True, text=True
        )
        return query.stdout or package

    def version_of_release(self, release, package):
        """The version of a package of another Debian release."""
        return self.package_version(package, folder_of(release, package))

    def of_release(self, release, package):
        """The program of a package of another Debian release that is one file.

        Raises [`Unmeasured`] when it is not there.
        """
        program = folder_of(release, package) / "usr" / "bin" / package
        if not program.is_file():
            raise Unmeasured(f"{package} of {release} could not be fetched")
        return str(program)

    def of_crate(self, crate):
        """The program of a crate. Raises [`Unmeasured`] when it is not there."""
        program = CACHE / "crates" / "bin" / crate
        if not program.is_file():
            raise Unmeasured(f"{crate} could not be built")
        return str(program)


def attempt(what, action, *arguments):
    """Does `action`; when it fails, says so and goes on."""
    try:
        action(*arguments)
    except (BenchError, OSError, subprocess.CalledProcessError) as error:
        step(f"{what} cannot be had: {error}")


def unpack_missing(tools, packages):
    """Unpacks `tools` and `packages` with what they depend on, as far as they are not installed, into the layer."""
    stamp = CACHE / "packages.stamp"
    made_from, *unpacked = stamp.read_text().split() if stamp.is_file() else [""]
    if made_from == digest(tools, unpacked) and set(packages) <= set(unpacked):
        return
    everything = sorted({*packages, *unpacked})
    step(f"fetching {' '.join([*tools, *everything])}")
    archives = CACHE / "archives"
    shutil.rmtree(archives, ignore_errors=True)
    (archives / "partial").mkdir(parents=True)
    download = [
        "apt-get",
        "-q",
        "-y",
        "--no-install-recommends",
        "--download-only",
        "-o",
        f"Dir::Cache::archives={archives}",
    ]
    download += ["install", *tools, *everything]
    if quiet(download).returncode != 0:
        quiet(["apt-get", "-q", "update"])
        result = quiet(download)
        if result.returncode != 0:
            raise BenchError(f"apt-get cannot fetch the packages: {last_line(result.stderr)}")
    shutil.rmtree(LAYER, ignore_errors=True)
    extract(sorted(archives.glob("*.deb")), LAYER)
    merge_into_usr(LAYER)
    stamp.write_text(f"{digest(tools, everything)} {' '.join(everything)}\n")


def extract(archives, folder):
    """Unpacks Debian packages into a new folder, and notes their versions there."""
    folder.mkdir()
    versions = []
    for archive in archives:
        subprocess.run(["dpkg-deb", "-x", archive, folder], check=True)
        form = ["dpkg-deb", "-W", "--showformat", "${Package} ${Version}\n", archive]
        versions.append(subprocess.run(form, capture_output=True, text=True, check=True).stdout)
    (folder / VERSIONS).write_text("".join(versions))


def folder_of(release, package):
    """Where a package of another Debian release is unpacked."""
    return CACHE / f"{package}-{release}"


def digest(tools, packages):
    """What the layer was made from: the packages that were asked for, and those that were installed then."""
    return hashlib.sha256("\n".join([*tools, *packages, installed()]).encode()).hexdigest()


def installed():
    """The names and versions of all installed packages."""
    query = ["dpkg-query", "-W", "-f", "${Package} ${Version} ${db:Status-Status}\n"]
    return subprocess.run(query, capture_output=True, text=True, check=True).stdout


def merge_into_usr(root):
    """Moves what a package has in /bin, /sbin and /lib to where these are links to."""
    for name in ("bin", "sbin", "lib"):
        if (root / name).is_dir():
            shutil.copytree(root / name, root / "usr" / name, symlinks=True, dirs_exist_ok=True)


def unpack_single(release, package):
    """Unpacks one package of another Debian release, without what it depends on."""
    place = folder_of(release, package)
    if place.is_dir():
        return
    step(f"fetching {package} of {release}")
    apt = CACHE / f"apt-{release}"
    for folder in ("lists/partial", "cache/archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    (apt / "sources.list").write_text(f"deb [signed-by={keyring}] {mirror()} {release} main\n")
    settings = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
    }
    command = ["apt-get", "-q"] + [part for key, value in settings.items() for part in ("-o", f"{key}={value}")]
    for action in (["update"], ["download", package]):
        result = quiet([*command, *action], cwd=apt)
        if result.returncode != 0:
            raise BenchError(last_line(result.stderr))
    archive = max(apt.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime, default=None)
    if archive is None:
        raise BenchError("apt-get fetched nothing")
    partial = place.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    extract([archive], partial)
    partial.rename(place)


def mirror():
    """The Debian mirror of this machine's own apt sources."""
    form = "$(ORIGIN)|$(LABEL)|$(REPO_URI)"
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", form, "Created-By: Packages"], capture_output=True, text=True
    )
    for line in targets.stdout.splitlines():
        origin, label, address = line.split("|")
        if origin == label == "Debian":
            return address
    raise BenchError("no apt source of this machine is a Debian mirror")


def build_crate(crate):
    """Builds a program from crates.io."""
    if (CACHE / "crates" / "bin" / crate).is_file():
        return
    step(f"building {crate}")
    command = [
        "cargo",
        "install",
        "--locked",
        "--root",
        CACHE / "crates",
        "--target-dir",
        CACHE / "crates-build",
        crate,
    ]
    subprocess.run(command, check=True)


def quiet(command, **options):
    """Runs a command and keeps what it says."""
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
    return subprocess.run(command, capture_output=True, text=True, env=environment, **options)


def last_line(text):
    """The last line that is not empty."""
    return ([line for line in text.splitlines() if line.strip()] or ["no message"])[-1].strip()
