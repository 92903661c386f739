"""A cable with a delay: hands every Ethernet frame between two interfaces on, a fixed time after it came.

Run as `relay.py LEFT RIGHT SECONDS`. For kernels without netem; made for the few packets of a handshake, not for
throughput.
"""

import collections
import select
import socket
import sys
import time

ETH_P_ALL = 0x0003
PACKET_OUTGOING = 4


def main(left, right, seconds):
    """Relays until it is ended."""
    ends = [listen(left), listen(right)]
    other = {ends[0]: ends[1], ends[1]: ends[0]}
    queue = collections.deque()  # (when to send, where, frame), in order: the delay is the same for all
    while True:
        patience = max(0.0, queue[0][0] - time.monotonic()) if queue else None
        for end in select.select(ends, [], [], patience)[0]:
            frame, (_, _, kind, _, _) = end.recvfrom(65536)
            if kind != PACKET_OUTGOING:
                queue.append((time.monotonic() + seconds, other[end], frame))
        while queue and queue[0][0] <= time.monotonic():
            _, end, frame = queue.popleft()
            end.send(frame)


def listen(interface):
    """A socket that gets every frame of an interface."""
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    end.bind((interface, ETH_P_ALL))
    end.setsockopt(263, 1, promiscuous(interface))  # SOL_PACKET, PACKET_ADD_MEMBERSHIP
    return end


def promiscuous(interface):
    """A struct packet_mreq: this interface, all frames (PACKET_MR_PROMISC)."""
    return socket.if_nametoindex(interface).to_bytes(4, sys.byteorder) + (1).to_bytes(2, sys.byteorder) + bytes(10)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
