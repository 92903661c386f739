"""IP proxying over HTTP/2: extended CONNECT (RFC 8441) and capsules in DATA frames, with hyper-h2, over TLS 1.3."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar, cast

from h2.config import H2Configuration
from h2.connection import ConnectionInputs, ConnectionState, H2Connection, H2ConnectionStateMachine
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    RemoteSettingsChanged,
    RequestReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from codec import IP_CONTEXT, Datagram, encode_capsule, encode_payload
from journal import Journal
from request import Fields, Refused, answer, check_response, connect_ip, is_granted
from session import Credentials, Endpoint, Session, User

# Bytes that the peer may send before they have been acknowledged, for the stream and the connection.
_WINDOW = 1 << 20
# Bytes that wait for flow control or the socket; packets beyond them are dropped.
_MAX_PENDING = 128 * 1024

# A connection goes on after GOAWAY, with the streams that it has (RFC 9113 section 6.8); hyper-h2 takes what comes on them for errors.
for _frame in (
    ConnectionInputs.RECV_DATA,
    ConnectionInputs.RECV_HEADERS,
    ConnectionInputs.RECV_PING,
    ConnectionInputs.RECV_RST_STREAM,
    ConnectionInputs.RECV_SETTINGS,
    ConnectionInputs.RECV_WINDOW_UPDATE,
):
    H2ConnectionStateMachine._transitions[ConnectionState.CLOSED, _frame] = (None, ConnectionState.CLOSED)  # noqa: SLF001

_Result = TypeVar("_Result")


class Client:
    """A connection to a proxy with one tunnel."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials) -> None:
        self._endpoint = endpoint
        self._tls = _tls(credentials, is_client=True)

    async def run(self, authority: str, path: str, user: User, journal: Journal) -> None:
        """Connects, asks for a tunnel and returns when it is gone. Raises `Refused` or `ConnectionError`."""
        transport, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(journal, user, path, is_client=True),
            self._endpoint.host,
            self._endpoint.port,
            ssl=self._tls,
        )
        try:
            await connection.request(authority)
        finally:
            connection.close()


class Server:
    """A proxy."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials) -> None:
        self._endpoint = endpoint
        self._tls = _tls(credentials, is_client=False)
        self._listener: asyncio.Server | None = None
        self._connections: set[_Connection] = set()

    async def start(self, path: str, user: User, journal: Journal) -> None:
        """Listens, and serves tunnels at `path` to clients with a certificate of the trust anchor."""

        def accept() -> _Connection:
            connection = _Connection(journal, user, path, is_client=False)
            self._connections.add(connection)
            connection.when_lost(lambda: self._connections.discard(connection))
            return connection

        self._listener = await asyncio.get_running_loop().create_server(
            accept, self._endpoint.host, self._endpoint.port, ssl=self._tls
        )

    def stop(self) -> None:
        """Closes all connections."""
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._connections):
            connection.close()


class _Connection(asyncio.Protocol):
    """An HTTP/2 connection of either role."""

    def __init__(self, journal: Journal, user: User, path: str, is_client: bool) -> None:
        self.is_client = is_client
        self.h2 = H2Connection(H2Configuration(client_side=is_client, header_encoding=None))
        self._journal = journal
        self._user = user
        self._path = path
        self._transport: asyncio.Transport | None = None
        self._is_paused = False
        self._reason = ""
        self._sessions: dict[int, _Session] = {}
        loop = asyncio.get_running_loop()
        self._peer_settings: asyncio.Future[dict[int, int]] = loop.create_future()
        self._response: asyncio.Future[Fields] = loop.create_future()
        self._lost: asyncio.Future[None] = loop.create_future()

    @property
    def is_writable(self) -> bool:
        """Whether the socket takes more."""
        return not self._is_paused and self._transport is not None and not self._transport.is_closing()

    async def request(self, authority: str) -> None:
        """Asks for a tunnel once the proxy has said that it takes such requests; returns when it is gone."""
        settings = await self._before_end(self._peer_settings)
        if settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL) != 1:
            raise Refused("the proxy did not send ENABLE_CONNECT_PROTOCOL = 1")
        stream = self.h2.get_next_available_stream_id()
        self._sessions[stream] = _Session(self, stream, self._user, self._journal)
        fields = connect_ip(authority, self._path)
        self._journal.fields("request", "sent", stream, fields)
        self.h2.send_headers(stream, fields)
        self.flush()
        check_response(await self._before_end(self._response))
        await self._sessions[stream].wait()

    def close(self) -> None:
        """Ends the sessions and the connection."""
        for session in self._sessions.values():
            session.close()
        if self._transport is not None and not self._transport.is_closing():
            self.h2.close_connection()
            self._transport.write(self.h2.data_to_send())
            self._transport.close()

    def when_lost(self, call: Callable[[], object]) -> None:
        """Has `call` called when the connection is gone."""
        self._lost.add_done_callback(lambda _: call())

    def flush(self) -> None:
        """Hands what h2 has made of it to the socket."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(self.h2.data_to_send())

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio after the TLS handshake."""
        self._transport = cast(asyncio.Transport, transport)
        tls = cast(ssl.SSLObject, transport.get_extra_info("ssl_object"))
        if tls.selected_alpn_protocol() != "h2":
            self._end("the peer did not choose h2")
            self._transport.close()
            return
        self._transport.set_write_buffer_limits(high=_MAX_PENDING)
        settings: dict[SettingCodes, int] = {SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW}
        if self.is_client:
            settings[SettingCodes.ENABLE_PUSH] = 0
        else:
            settings[SettingCodes.ENABLE_CONNECT_PROTOCOL] = 1
        self.h2.local_settings = Settings(client=self.is_client, initial_values=settings)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(_WINDOW)
        self._journal.settings("sent", {int(code): value for code, value in settings.items()})
        self.flush()

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        try:
            events = self.h2.receive_data(data)
        except ProtocolError as error:
            self._end(f"protocol error of the peer: {error}")
            self.flush()
            if self._transport is not None:
                self._transport.close()
            return
        for event in events:
            self._event_received(event)
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end(f"connection lost: {exc}" if exc else "connection closed by the peer")

    def pause_writing(self) -> None:
        """Called by asyncio."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """Called by asyncio."""
        self._is_paused = False
        self._pump()

    def _event_received(self, event: Event) -> None:
        match event:
            case RemoteSettingsChanged():
                self._settings_received(event)
            case RequestReceived():
                self._request_received(event)
            case ResponseReceived():
                self._response_received(event)
            case DataReceived():
                if event.stream_id in self._sessions:
                    self._sessions[event.stream_id].receive_data(event.data)
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case StreamEnded() if event.stream_id in self._sessions:
                self._sessions[event.stream_id].receive_end()
            case StreamReset() if event.stream_id in self._sessions:
                self._sessions[event.stream_id].end(f"stream reset by the peer: {event.error_code:#x}")
            case WindowUpdated():
                self._pump()
            case ConnectionTerminated():
                self._end(f"connection closed: {event.error_code:#x}")

    def _settings_received(self, event: RemoteSettingsChanged) -> None:
        settings = {int(code): change.new_value for code, change in event.changed_settings.items()}
        self._journal.settings("received", settings)
        if not self._peer_settings.done():
            self._peer_settings.set_result(settings)
        self._pump()

    def _request_received(self, event: RequestReceived) -> None:
        stream, fields = event.stream_id, event.headers
        self._journal.fields("request", "received", stream, fields)
        response = answer(fields, self._path)
        self._journal.fields("response", "sent", stream, response)
        granted = is_granted(response)
        self.h2.send_headers(stream, response, end_stream=not granted)
        if granted:
            self._sessions[stream] = _Session(self, stream, self._user, self._journal)
            self._sessions[stream].open()

    def _response_received(self, event: ResponseReceived) -> None:
        stream, fields = event.stream_id, event.headers
        self._journal.fields("response", "received", stream, fields)
        if self._response.done():
            return
        self._response.set_result(fields)
        if is_granted(fields):
            self._sessions[stream].open()

    async def _before_end(self, awaited: asyncio.Future[_Result]) -> _Result:
        await asyncio.wait((awaited, self._lost), return_when=asyncio.FIRST_COMPLETED)
        if not awaited.done():
            raise ConnectionError(self._reason)
        return awaited.result()

    def _pump(self) -> None:
        for session in self._sessions.values():
            session.pump()

    def _end(self, reason: str) -> None:
        self._reason = reason
        for session in self._sessions.values():
            session.end(reason)
        if not self._lost.done():
            self._lost.set_result(None)


class _Session(Session):
    """A tunnel on a stream, packets in DATAGRAM capsules."""

    def __init__(self, connection: _Connection, stream: int, user: User, journal: Journal) -> None:
        super().__init__(stream, connection.is_client, user, journal)
        self._connection = connection
        self._pending = bytearray()
        self._ended = asyncio.Event()

    async def wait(self) -> None:
        """Returns when the tunnel is gone."""
        await self._ended.wait()

    def send_packets(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            if len(self._pending) > _MAX_PENDING:
                self.packets_dropped += 1
                continue
            payload = encode_payload(IP_CONTEXT, packet)
            self._note_first("sent", payload, in_capsule=True)
            self._pending += encode_capsule(Datagram(payload))
            self.packets_sent += 1
        self.pump()

    def pump(self) -> None:
        """Sends what waits, as far as flow control and the socket let it."""
        connection = self._connection
        while self._pending and connection.is_writable:
            window = connection.h2.local_flow_control_window(self.stream)
            length = min(len(self._pending), window, connection.h2.max_outbound_frame_size)
            if length <= 0:
                break
            connection.h2.send_data(self.stream, bytes(self._pending[:length]))
            del self._pending[:length]
            connection.flush()

    def end(self, reason: str) -> None:
        super().end(reason)
        self._pending.clear()
        self._ended.set()

    def _write(self, data: bytes) -> None:
        self._pending += data
        self.pump()

    def _send_payload(self, payload: bytes) -> None:
        self._write(encode_capsule(Datagram(payload)))

    def _finish(self) -> None:
        self.pump()
        with suppress(ProtocolError):
            # It fails when the peer has closed the connection in the same breath.
            self._connection.h2.end_stream(self.stream)
        self._connection.flush()

    def _reset(self) -> None:
        with suppress(ProtocolError):
            self._connection.h2.reset_stream(self.stream, ErrorCodes.PROTOCOL_ERROR)
        self._connection.flush()


def _tls(credentials: Credentials, is_client: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_client else ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(credentials.certificate, credentials.key)
    context.load_verify_locations(credentials.trust_anchor)
    context.set_alpn_protocols(["h2"])
    if not is_client:
        context.num_tickets = 0
    return context
