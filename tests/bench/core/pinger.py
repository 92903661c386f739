"""A stream of pings through a tunnel, finer than ping(8) allows: when each was sent, and when its reply came."""

import contextlib
import os
import select
import socket
import struct
import threading
import time

ECHO_REQUEST, ECHO_REPLY = 8, 0


class Pinger:
    """Pings `target` from `node` every `interval` seconds for as long as the block runs.

    The pings come from the address `source`, if it is given. All times are those of time.monotonic().
    """

    _next_identifier = os.getpid()

    def __init__(self, node, target, interval, source=""):
        self.target = target
        self.interval = interval
        self.sent = []  # when ping n was sent
        self.replies = []  # (n, when its reply came), in order of arrival
        Pinger._next_identifier += 1
        self._identifier = Pinger._next_identifier & 0xFFFF
        self._socket = node.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._socket.bind((source, 0))
        self._socket.setblocking(False)
        self._stop = threading.Event()
        self._replied = threading.Condition()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        self._socket.close()

    def wait_for_reply(self, timeout, since=0.0):
        """When the first reply to a ping sent after `since` came; None when none came within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._replied:
            while True:
                for number, received in self.replies:
                    if self.sent[number] >= since:
                        return received
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._replied.wait(left)

    def wait_for_steady(self, since, calm, timeout):
        """Waits until pings sent after `since` were answered for `calm` seconds without a pause of a fifth of that.

        Returns when the first of these replies came; None when that does not happen within `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            first = previous = None
            for number, received in list(self.replies):
                if self.sent[number] < since:
                    continue
                if previous is None or received - previous > calm / 5:
                    first = received
                previous = received
            now = time.monotonic()
            if first is not None and now - previous < calm / 5 and now - first >= calm:
                return first
            time.sleep(0.05)
        return None

    def longest_gap(self, begin, end):
        """The longest time between two replies in a row, of which the later came between `begin` and `end`."""
        times = [received for _, received in list(self.replies)]
        gaps = [later - earlier for earlier, later in zip(times, times[1:]) if begin <= later <= end]
        return max(gaps, default=None)

    def round_trips(self, since=0.0, until=float("inf")):
        """The round-trip times, in seconds, of the pings sent between `since` and `until` that were answered."""
        answered = ((self.sent[number], received) for number, received in list(self.replies))
        return [received - sent for sent, received in answered if since <= sent <= until]

    def _work(self):
        due = time.monotonic()
        while not self._stop.is_set():
            now = time.monotonic()
            if now >= due:
                self._send()
                due = max(due + self.interval, now)
            if select.select([self._socket], [], [], max(0.0, due - time.monotonic()))[0]:
                self._receive()

    def _send(self):
        number = len(self.sent)
        packet = struct.pack("!BBHHHQ", ECHO_REQUEST, 0, 0, self._identifier, number & 0xFFFF, number)
        packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]
        self.sent.append(time.monotonic())
        with contextlib.suppress(OSError):  # no way there yet, or no longer: a ping without reply
            self._socket.sendto(packet, (self.target, 0))

    def _receive(self):
        try:
            packet = self._socket.recv(2048)
        except OSError:
            return
        received = time.monotonic()
        packet = packet[(packet[0] & 15) * 4 :]
        if len(packet) != 16:
            return
        kind, _, _, identifier, _, number = struct.unpack("!BBHHHQ", packet)
        if kind == ECHO_REPLY and identifier == self._identifier and number < len(self.sent):
            with self._replied:
                self.replies.append((number, received))
                self._replied.notify_all()


def checksum(data):
    """The internet checksum (RFC 1071) of an even number of bytes."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
