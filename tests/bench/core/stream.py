"""A TCP transfer in flight through a tunnel, whose bytes are compared."""

import os
import socket
import threading
import time

from core.errors import Unmeasured
from core.site import TARGET

PORT = 5999
PIECE = 1000
INTERVAL_S = 0.01
BLOCK = os.urandom(PIECE * 64)


class Stream:
    """Sends 100 kB/s from the client to the target for as long as the block runs, and compares what arrives."""

    def __init__(self, site):
        self.sent = 0
        self.received = 0
        self.failure = None
        with site.server.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((TARGET, PORT))
            listener.listen(1)
            listener.settimeout(5)
            self._out = site.client.socket(socket.AF_INET, socket.SOCK_STREAM)
            self._out.settimeout(5)
            try:
                self._out.connect((TARGET, PORT))
                self._in, _ = listener.accept()
            except OSError as error:
                self._out.close()
                raise Unmeasured(f"no TCP connection through the tunnel: {error}") from None
        self._out.setblocking(False)
        self._in.settimeout(0.2)
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in (self._send, self._receive)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._out.close()
        self._in.close()

    def lives(self, timeout):
        """Whether all that was sent until now, and a second more of it, arrives unchanged within `timeout` seconds."""
        wanted = self.sent + int(PIECE / INTERVAL_S)
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and self.failure is None:
            if self.received >= wanted:
                return True
            time.sleep(0.02)
        return False

    def _send(self):
        while not self._stop.wait(INTERVAL_S):
            start = self.sent % len(BLOCK)
            try:
                self.sent += self._out.send(BLOCK[start : start + PIECE])
            except BlockingIOError:
                continue
            except OSError as error:
                self.failure = self.failure or f"sending: {error.strerror}"
                return

    def _receive(self):
        while not self._stop.is_set():
            try:
                data = self._in.recv(65536)
            except TimeoutError:
                continue
            except OSError as error:
                self.failure = self.failure or f"receiving: {error.strerror}"
                return
            if not data:
                self.failure = self.failure or "closed by the client's side"
                return
            start = self.received % len(BLOCK)
            if data != (BLOCK + BLOCK + BLOCK)[start : start + len(data)]:
                self.failure = "other bytes arrived than were sent"
                return
            self.received += len(data)
