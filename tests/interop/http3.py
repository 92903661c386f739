"""IP proxying over HTTP/3: aioquic for QUIC, frames and QPACK; settings, requests and datagrams from here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from functools import partial
from typing import TypeVar, cast

from aioquic.asyncio.client import connect as quic_connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.asyncio.server import QuicServer, serve as quic_serve
from aioquic.h3.connection import ErrorCode, H3Connection, Setting
from aioquic.h3.events import DatagramReceived, DataReceived, H3Event, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import (
    ConnectionTerminated,
    HandshakeCompleted,
    ProtocolNegotiated,
    QuicEvent,
    StreamReset,
)
from aioquic.tls import Alert, AlertBadCertificate, verify_certificate
from cryptography.x509 import ExtendedKeyUsage, ExtensionNotFound
from cryptography.x509.oid import ExtendedKeyUsageOID

from codec import IP_CONTEXT, Datagram, encode_capsule, encode_payload
from journal import Journal
from request import Fields, Refused, answer, check_response, connect_ip, is_granted
from session import Credentials, Endpoint, Session, User

# UDP payload in bytes: 1280 bytes of packet and at most 51 around it (RFC 9484 section 7.1) fit, and QUIC's Initial
# packets are padded to as much, which proves that the path carries it.
_DATAGRAM_SIZE = 1400
# The largest QUIC datagram that is taken (RFC 9221 section 3).
_DATAGRAM_FRAME_SIZE = 65535
# Packets that wait for the congestion window; more would be delay and no more throughput.
_MAX_PENDING = 64
# Error codes of QUIC that stand for TLS alerts (RFC 9001 section 4.8).
_CRYPTO_ERROR = 0x100

_Result = TypeVar("_Result")


class Client:
    """A connection to a proxy with one tunnel."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials) -> None:
        self._endpoint = endpoint
        self._configuration = _configuration(credentials, is_client=True)

    async def run(self, authority: str, path: str, user: User, journal: Journal) -> None:
        """Connects, asks for a tunnel and returns when it is gone. Raises `Refused` or `ConnectionError`."""
        create = partial(_Connection, journal=journal, user=user, path=path)
        async with quic_connect(
            self._endpoint.host, self._endpoint.port, configuration=self._configuration, create_protocol=create
        ) as protocol:
            await cast(_Connection, protocol).request(authority)


class Server:
    """A proxy."""

    def __init__(self, endpoint: Endpoint, credentials: Credentials) -> None:
        self._endpoint = endpoint
        self._credentials = credentials
        self._quic: QuicServer | None = None

    async def start(self, path: str, user: User, journal: Journal) -> None:
        """Listens, and serves tunnels at `path` to clients with a certificate of the trust anchor."""
        create = partial(_Connection, journal=journal, user=user, path=path)
        configuration = _configuration(self._credentials, is_client=False)
        self._quic = await quic_serve(
            self._endpoint.host, self._endpoint.port, configuration=configuration, create_protocol=create
        )

    def stop(self) -> None:
        """Closes all connections."""
        if self._quic is not None:
            self._quic.close()


class _Http(H3Connection):
    """aioquic's HTTP/3 with the settings of IP proxying (RFC 9297 section 2.1.1, RFC 9220 section 3)."""

    def _get_local_settings(self) -> dict[int, int]:
        settings = super()._get_local_settings()
        settings[Setting.H3_DATAGRAM] = 1
        if self._is_client:
            del settings[Setting.ENABLE_CONNECT_PROTOCOL]
        return settings


class _Connection(QuicConnectionProtocol):
    """A QUIC connection of either role."""

    def __init__(
        self, quic: QuicConnection, stream_handler: object, *, journal: Journal, user: User, path: str
    ) -> None:
        super().__init__(quic)
        self._journal = journal
        self._user = user
        self._path = path
        self.is_client = quic.configuration.is_client
        self._http: _Http | None = None
        self._sessions: dict[int, _Session] = {}
        self._peer_settings: asyncio.Future[dict[int, int]] = asyncio.get_running_loop().create_future()
        self._response: asyncio.Future[Fields] = asyncio.get_running_loop().create_future()
        self._ended = asyncio.Event()
        self._reason = ""
        self._is_admitted = self.is_client
        if not self.is_client:
            _demand_certificate(quic)

    @property
    def http(self) -> _Http:
        """The HTTP/3 layer, once ALPN has chosen it."""
        assert self._http is not None
        return self._http

    @property
    def pending_datagrams(self) -> int:
        """Datagrams that wait for the congestion window; aioquic shows them nowhere else."""
        return len(self._quic._datagrams_pending)

    @property
    def peer_takes_datagrams(self) -> bool:
        """Whether the peer's settings have come, with H3_DATAGRAM."""
        return self._peer_settings.done() and self._peer_settings.result().get(Setting.H3_DATAGRAM) == 1

    async def request(self, authority: str) -> None:
        """Asks for a tunnel once the proxy has said that it takes such requests; returns when it is gone."""
        settings = await self._before_end(self._peer_settings)
        for needed in (Setting.ENABLE_CONNECT_PROTOCOL, Setting.H3_DATAGRAM):
            if settings.get(needed) != 1:
                raise Refused(f"the proxy did not send {needed.name} = 1")
        stream = self._quic.get_next_available_stream_id()
        self._sessions[stream] = _Session(self, stream, self._user, self._journal)
        fields = connect_ip(authority, self._path)
        self._journal.fields("request", "sent", stream, fields)
        self.http.send_headers(stream, fields)
        self.transmit()
        check_response(await self._before_end(self._response))
        await self._ended.wait()

    def close(self, error_code: int = ErrorCode.H3_NO_ERROR, reason_phrase: str = "") -> None:
        """Closes the connection, unless told otherwise with HTTP/3's code for it."""
        super().close(error_code, reason_phrase)

    def quic_event_received(self, event: QuicEvent) -> None:
        """Called by aioquic."""
        match event:
            case HandshakeCompleted() if not self.is_client:
                self._check_certificate()
            case ProtocolNegotiated():
                self._http = _Http(self._quic)
                self._journal.settings("sent", self._http.sent_settings or {})
            case ConnectionTerminated():
                self._end(f"connection closed: {event.error_code:#x} {event.reason_phrase}".rstrip())
            case StreamReset() if event.stream_id in self._sessions:
                self._sessions[event.stream_id].abort(f"stream reset by the peer: {event.error_code:#x}")
        if self._http is None or not self._is_admitted:
            return
        for http_event in self._http.handle_event(event):
            self._http_event_received(http_event)
        settings = self._http.received_settings
        if settings is not None and not self._peer_settings.done():
            self._journal.settings("received", settings)
            self._peer_settings.set_result(settings)

    def _http_event_received(self, event: H3Event) -> None:
        match event:
            case HeadersReceived() if self.is_client:
                self._response_received(event)
            case HeadersReceived():
                self._request_received(event)
            case DataReceived() if event.stream_id in self._sessions:
                self._sessions[event.stream_id].receive_data(event.data)
            case DatagramReceived() if event.stream_id in self._sessions:
                self._sessions[event.stream_id].receive_payload(event.data, in_capsule=False)
        if isinstance(event, (HeadersReceived, DataReceived)) and event.stream_ended:
            session = self._sessions.get(event.stream_id)
            if session is not None:
                session.receive_end()

    def _response_received(self, event: HeadersReceived) -> None:
        session = self._sessions.get(event.stream_id)
        if session is None or self._response.done():
            return
        self._journal.fields("response", "received", event.stream_id, event.headers)
        self._response.set_result(event.headers)
        if is_granted(event.headers):
            session.open()

    def _request_received(self, event: HeadersReceived) -> None:
        stream = event.stream_id
        self._journal.fields("request", "received", stream, event.headers)
        response = answer(event.headers, self._path)
        self._journal.fields("response", "sent", stream, response)
        granted = is_granted(response)
        self.http.send_headers(stream, response, end_stream=not granted)
        self.transmit()
        if granted:
            self._sessions[stream] = _Session(self, stream, self._user, self._journal)
            self._sessions[stream].open()

    def _check_certificate(self) -> None:
        """aioquic has checked that the client holds the key; who issued the certificate, and for what, is left."""
        try:
            _verify_client(self._quic)
            self._is_admitted = True
        except Alert as alert:
            self._journal.note("refused", reason=str(alert))
            self.close(_CRYPTO_ERROR + alert.description, str(alert))

    async def _before_end(self, awaited: asyncio.Future[_Result]) -> _Result:
        ended = asyncio.ensure_future(self._ended.wait())
        await asyncio.wait((awaited, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not awaited.done():
            raise ConnectionError(self._reason)
        return awaited.result()

    def _end(self, reason: str) -> None:
        self._reason = reason
        for session in self._sessions.values():
            session.end(reason)
        self._ended.set()

    def session_ended(self) -> None:
        """Called by a session that is over: on the client's side, so is the connection."""
        if self.is_client:
            self._ended.set()


class _Session(Session):
    """A tunnel on a request stream, packets in QUIC datagrams."""

    def __init__(self, connection: _Connection, stream: int, user: User, journal: Journal) -> None:
        super().__init__(stream, connection.is_client, user, journal)
        self._connection = connection

    def send_packets(self, packets: Sequence[bytes]) -> None:
        for packet in packets:
            if self._connection.pending_datagrams >= _MAX_PENDING:
                self.packets_dropped += 1
                continue
            payload = encode_payload(IP_CONTEXT, packet)
            self._note_first("sent", payload, in_capsule=not self._connection.peer_takes_datagrams)
            self._queue_payload(payload)
            self.packets_sent += 1
        self._connection.transmit()

    def end(self, reason: str) -> None:
        super().end(reason)
        self._connection.session_ended()

    def _queue_payload(self, payload: bytes) -> None:
        if self._connection.peer_takes_datagrams:
            self._connection.http.send_datagram(self.stream, payload)
        else:
            # Until the peer has said that it takes QUIC datagrams (RFC 9297 section 2.1.1).
            self._connection.http.send_data(self.stream, encode_capsule(Datagram(payload)), end_stream=False)

    def _send_payload(self, payload: bytes) -> None:
        self._queue_payload(payload)
        self._connection.transmit()

    def _write(self, data: bytes) -> None:
        self._connection.http.send_data(self.stream, data, end_stream=False)
        self._connection.transmit()

    def _finish(self) -> None:
        self._connection.http.send_data(self.stream, b"", end_stream=True)
        self._connection.transmit()

    def _reset(self) -> None:
        self._connection._quic.reset_stream(self.stream, ErrorCode.H3_MESSAGE_ERROR)
        self._connection.transmit()


def _configuration(credentials: Credentials, is_client: bool) -> QuicConfiguration:
    configuration = QuicConfiguration(
        alpn_protocols=["h3"],
        is_client=is_client,
        max_datagram_size=_DATAGRAM_SIZE,
        max_datagram_frame_size=_DATAGRAM_FRAME_SIZE,
        verify_mode=ssl.CERT_REQUIRED,
    )
    configuration.load_cert_chain(credentials.certificate, credentials.key)
    configuration.load_verify_locations(str(credentials.trust_anchor))
    return configuration


def _verify_client(quic: QuicConnection) -> None:
    """Raises `Alert` when the client has no certificate for clients that chains to the trust anchor."""
    certificate = quic.tls._peer_certificate
    if certificate is None:
        raise AlertBadCertificate("no client certificate")
    verify_certificate(certificate, quic.tls._peer_certificate_chain, cafile=quic.configuration.cafile)
    try:
        usage = certificate.extensions.get_extension_for_class(ExtendedKeyUsage).value
    except ExtensionNotFound as error:
        raise AlertBadCertificate(str(error)) from error
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usage:
        raise AlertBadCertificate("not a certificate for clients")


def _demand_certificate(quic: QuicConnection) -> None:
    """Makes a server ask for the client's certificate: aioquic can, and has no setting for it."""
    initialize = quic._initialize

    def initialize_and_demand(peer_cid: bytes) -> None:
        initialize(peer_cid)
        quic.tls._request_client_certificate = True

    quic._initialize = initialize_and_demand  # type: ignore[method-assign]
