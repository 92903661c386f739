//! Two ends of a tunnel, and peers that the tests play themselves.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{RecvStream, SendStream, client, server};
use m2m_tunnel::{
    client::ConnectRequest,
    http2::{self, Http2Tunnel, Received, Receiver},
    session::{CloseReason, Event},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    task::JoinHandle,
};

/// No step of a test takes longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) const AUTHORITY: &str = "gateway.example";

/// Waits, but not for ever.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("too slow")
}

/// A pipe that holds 64 KiB in each direction.
pub(crate) fn pipe() -> (DuplexStream, DuplexStream) {
    tokio::io::duplex(64 * 1024)
}

/// A tunnel's two ends over a pipe: client's, server's.
pub(crate) async fn tunnel() -> (Http2Tunnel, Http2Tunnel) {
    let (near, far) = pipe();
    tunnel_over(near, far).await
}

pub(crate) async fn tunnel_over<C, S>(client: C, server: S) -> (Http2Tunnel, Http2Tunnel)
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connecting = http2::connect(client, ConnectRequest::new(AUTHORITY));
    let serving = async { http2::accept(server, Arc::default()).await.unwrap().accept().await.unwrap() };
    let (client, server) = soon(async { tokio::join!(connecting, serving) }).await;
    (client.unwrap(), server)
}

/// Receives until there are `count` packets.
pub(crate) async fn packets(receiver: &mut Receiver, count: usize) -> Vec<Bytes> {
    let mut packets = Vec::new();
    while packets.len() < count {
        match soon(receiver.recv(&mut packets)).await.unwrap() {
            Received::Packets(_) => {}
            other => panic!("not packets: {other:?}"),
        }
    }
    packets
}

/// Receives what must be an event.
pub(crate) async fn event(receiver: &mut Receiver) -> Event {
    let mut packets = Vec::new();
    match soon(receiver.recv(&mut packets)).await.unwrap() {
        Received::Event(event) => event,
        other => panic!("not an event: {other:?}"),
    }
}

/// Receives what must be the end.
pub(crate) async fn end(receiver: &mut Receiver) -> CloseReason {
    let mut packets = Vec::new();
    match soon(receiver.recv(&mut packets)).await {
        Err(reason) => reason,
        Ok(other) => panic!("not the end: {other:?}, {} packets", packets.len()),
    }
}

/// A client that the test plays with h2, and its connection's task.
pub(crate) async fn played_client(io: DuplexStream) -> (client::SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (requests, mut connection) = soon(client::handshake(io)).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let task = tokio::spawn(connection);
    // SETTINGS are there when the PING is answered.
    soon(pings.ping(h2::Ping::opaque())).await.unwrap();
    (requests, task)
}

/// The request for a tunnel as a client of one's own sends it.
pub(crate) fn connect_ip(path: &str) -> http::Request<()> {
    http::Request::builder()
        .method("CONNECT")
        .uri(format!("https://{AUTHORITY}{path}"))
        .extension(h2::ext::Protocol::from_static("connect-ip"))
        .header("capsule-protocol", "?1")
        .body(())
        .unwrap()
}

pub(crate) const UNLIMITED: &str = "/.well-known/masque/ip/*/*/";

/// A server's tunnel whose client is played by the test.
pub(crate) struct WithPlayedClient {
    pub(crate) tunnel: Http2Tunnel,
    pub(crate) outbound: SendStream<Bytes>,
    pub(crate) inbound: RecvStream,
    pub(crate) requests: client::SendRequest<Bytes>,
    pub(crate) connection: JoinHandle<Result<(), h2::Error>>,
}

pub(crate) async fn with_played_client() -> WithPlayedClient {
    let (near, far) = pipe();
    let serving = tokio::spawn(async { http2::accept(far, Arc::default()).await.unwrap().accept().await.unwrap() });
    let (mut requests, connection) = played_client(near).await;
    let (response, outbound) = requests.send_request(connect_ip(UNLIMITED), false).unwrap();
    let inbound = soon(response).await.unwrap().into_body();
    let tunnel = soon(serving).await.unwrap();
    WithPlayedClient { tunnel, outbound, inbound, requests, connection }
}

pub(crate) type Exchange = (http::Request<RecvStream>, server::SendResponse<Bytes>);

/// A server that the test plays with h2: the client's request and the connection, which its task keeps moving.
pub(crate) async fn played_server(io: DuplexStream) -> (Exchange, JoinHandle<()>) {
    let mut connection = soon(server::Builder::new().enable_connect_protocol().handshake(io)).await.unwrap();
    let exchange = soon(connection.accept()).await.unwrap().unwrap();
    let task = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    (exchange, task)
}

/// Connects, and gives what a task of its own will bring.
pub(crate) fn connecting(io: DuplexStream) -> JoinHandle<Result<Http2Tunnel, m2m_tunnel::client::ConnectError>> {
    tokio::spawn(http2::connect(io, ConnectRequest::new(AUTHORITY)))
}
