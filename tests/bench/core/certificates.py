"""Keys and certificates of one run, made by OpenSSL as docs/standalone.md says, and X25519 keys for WireGuard."""

from dataclasses import dataclass
from pathlib import Path

from core.node import run
from core.site import SERVER

DEVICE = "atm-0001"


@dataclass
class Certificates:
    """The files. One CA signs the server's certificate and the device's, for every peer that has certificates."""

    directory: Path
    ca: Path
    server: Path
    server_key: Path
    device: Path
    device_key: Path


def make(directory):
    """Makes a CA and two certificates (ECDSA P-256) in `directory`."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    new = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", "825"]
    authority = ["basicConstraints=critical,CA:TRUE", "keyUsage=critical,keyCertSign,cRLSign"]
    run([*new, "-subj", "/CN=Example root", *extensions(*authority), "-keyout", ca_key, "-out", ca])
    made = []
    for name, usage, alternative in (
        ("gateway", "serverAuth", f"IP:{SERVER}"),
        (DEVICE, "clientAuth", f"URI:urn:m2mvpn:device:{DEVICE}"),
    ):
        leaf = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
        leaf += [f"extendedKeyUsage={usage}", f"subjectAltName={alternative}"]
        certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
        run(
            [
                *new,
                "-subj",
                f"/CN={name}",
                "-CA",
                ca,
                "-CAkey",
                ca_key,
                *extensions(*leaf),
                "-keyout",
                key,
                "-out",
                certificate,
            ]
        )
        made += [certificate, key]
    return Certificates(directory, ca, *made)


def x25519():
    """A private and a public X25519 key, in hexadecimal digits."""
    private = run(["openssl", "genpkey", "-algorithm", "X25519"])
    text = run(["openssl", "pkey", "-text", "-noout"], input=private)
    secret, _, public = text.partition("pub:")
    return digits(secret.partition("priv:")[2]), digits(public)


def digits(text):
    """The hexadecimal digits of a key as OpenSSL prints it."""
    return "".join(character for character in text if character in "0123456789abcdef")


def extensions(*values):
    """Arguments that add these extensions."""
    return [part for value in values for part in ("-addext", value)]
