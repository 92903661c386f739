"""What is compared: one module for each program, one class for each row of the table."""

from peers.m2mvpn import M2mvpnHttp2, M2mvpnHttp3
from peers.ocserv import OcservDtls, OcservTls
from peers.openvpn import OpenVpnTcp, OpenVpnUdp
from peers.plain import Cipher, Plain
from peers.strongswan import StrongSwan
from peers.wireguard import BoringTun, WireGuardBookworm, WireGuardTrixie

# In the order of the table.
PEERS = [
    Plain,
    M2mvpnHttp3,
    M2mvpnHttp2,
    WireGuardTrixie,
    WireGuardBookworm,
    BoringTun,
    OpenVpnUdp,
    OpenVpnTcp,
    OcservDtls,
    OcservTls,
    StrongSwan,
    Cipher,
]
