//! Opening a tunnel.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use h2::{RecvStream, client, ext::Protocol};
use http::{Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    FRAME_SIZE, Http2Tunnel, MAX_HEADER_LIST, SMALL_FRAMES, WINDOW,
    backlog::Chunk,
    driver::{self, ClientConnection},
    link::{Link, Owner},
    reason,
    transport::{Socket, Transport},
    tunnel::Pings,
};
use crate::{
    client::{ConnectError, ConnectRequest},
    http3::{Code, message},
    qpack::Field,
    request,
    session::{CloseReason, printable},
};

/// Bytes of a refusal that are read.
const MAX_REASON: usize = 1024;

/// Opens the tunnel on a fresh connection to a gateway, TLS done, which it owns from then on: an error, or dropping the
/// future, closes it.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect<T>(io: T, request: ConnectRequest) -> Result<Http2Tunnel, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match tokio::time::timeout(request.timeout, open(io, &request.authority)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(ConnectError::TimedOut),
    }
}

async fn open<T>(io: T, authority: &str) -> Result<Http2Tunnel, ConnectError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let request = to_http(&request::unlimited(authority))?;
    let (io, socket) = Transport::new(io);
    let (requests, connection) = settings().handshake(io).await.map_err(|error| reason::of_error(&error, &socket))?;
    let mut handshake = Handshake { connection, requests, socket };

    let mut pings = handshake.connection.ping_pong().map(Pings::new).ok_or(CloseReason::Local)?;
    handshake.await_settings(&mut pings).await?;

    let sent = handshake.requests.send_request(request, false);
    let (response, outbound) = sent.map_err(|error| reason::of_error(&error, &handshake.socket))?;
    let (response, inbound) = handshake.meanwhile(response).await?.into_parts();
    let response = from_http(response);
    if !response.status.is_success() {
        let reason = handshake.text(inbound).await;
        return Err(ConnectError::Refused { status: response.status, reason });
    }
    if !request::starts_capsules(&response) {
        let reason = "answer does not start the capsule protocol".into();
        return Err(CloseReason::Protocol { code: Code::MESSAGE_ERROR, reason }.into());
    }

    let Handshake { connection, requests, socket } = handshake;
    let (link, orders) = Link::new(socket);
    link.open(outbound);
    let owner = Owner(Arc::clone(&link));
    tokio::spawn(driver::of_client(connection, requests, link, orders));
    Ok(Http2Tunnel::new(owner, inbound, pings))
}

fn settings() -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(MAX_HEADER_LIST)
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// A connection that has no task of its own yet.
struct Handshake<T> {
    connection: ClientConnection<T>,
    requests: client::SendRequest<Chunk>,
    socket: Socket,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Handshake<T> {
    /// An extended CONNECT must not be sent before the server said that it takes one (RFC 8441 §3). SETTINGS is the first
    /// frame of a server, so one that has answered a PING has said what it offers.
    async fn await_settings(&mut self, pings: &mut Pings) -> Result<(), ConnectError> {
        poll_fn(|cx| {
            let outcome = Pin::new(&mut self.connection).poll(cx);
            if self.requests.is_extended_connect_protocol_enabled() {
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(outcome) = outcome {
                return Poll::Ready(Err(self.end(outcome, cx).into()));
            }
            match pings.poll(cx) {
                Poll::Ready(Ok(_)) => {
                    Poll::Ready(Err(ConnectError::Unsupported { missing: "ENABLE_CONNECT_PROTOCOL" }))
                }
                // The connection's end is known when it is polled again.
                Poll::Ready(Err(_)) | Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// What `future` brings, the connection's frames moving meanwhile.
    async fn meanwhile<V>(&mut self, future: impl Future<Output = Result<V, h2::Error>>) -> Result<V, CloseReason> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            let ended = Pin::new(&mut self.connection).poll(cx);
            Poll::Ready(match (future.as_mut().poll(cx), ended) {
                (Poll::Ready(Ok(value)), _) => Ok(value),
                // What the peer said of the stream tells more than the connection's end, and that more than a broken stream.
                (Poll::Ready(Err(error)), _) if error.is_remote() => Err(reason::of_error(&error, &self.socket)),
                (_, Poll::Ready(outcome)) => Err(self.end(outcome, cx)),
                (Poll::Ready(Err(error)), Poll::Pending) => Err(reason::of_error(&error, &self.socket)),
                (Poll::Pending, Poll::Pending) => return Poll::Pending,
            })
        })
        .await
    }

    /// The content as text, fit for a log. What breaks the stream ends the text.
    async fn text(&mut self, mut inbound: RecvStream) -> String {
        let mut text = Vec::new();
        while text.len() < MAX_REASON {
            let next = async { inbound.data().await.transpose() };
            let Ok(Some(piece)) = self.meanwhile(next).await else {
                break;
            };
            text.extend_from_slice(&piece);
        }
        printable(&text)
    }

    fn end(&mut self, outcome: Result<(), h2::Error>, cx: &mut Context<'_>) -> CloseReason {
        reason::of_end(outcome, driver::look_for_farewell(&mut self.requests, cx), &self.socket)
    }
}

fn to_http(request: &message::Request) -> Result<http::Request<()>, CloseReason> {
    let uri = Uri::builder()
        .scheme(request.scheme.as_str())
        .authority(request.authority.as_str())
        .path_and_query(request.path.as_str())
        .build();
    let mut out = http::Request::builder()
        .method(request.method.as_str())
        .version(Version::HTTP_2)
        .uri(uri.map_err(|_| bad_authority(&request.authority))?)
        .extension(Protocol::from_static(request::PROTOCOL));
    for field in &request.fields {
        out = out.header(field.name.as_slice(), field.value.as_slice());
    }
    out.body(()).map_err(|_| bad_authority(&request.authority))
}

fn bad_authority(authority: &str) -> CloseReason {
    CloseReason::Transport(format!("authority {authority:?}: expected a host, and a port unless 443"))
}

fn from_http(response: http::response::Parts) -> message::Response {
    let fields = response.headers.iter();
    let fields = fields.map(|(name, value)| Field { name: name.as_str().into(), value: value.as_bytes().into() });
    message::Response { status: response.status, fields: fields.collect() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_request_is_an_extended_connect() {
        let request = to_http(&request::unlimited("[2001:db8::1]:8443")).unwrap();
        assert_eq!(request.uri(), "https://[2001:db8::1]:8443/.well-known/masque/ip/*/*/");
        assert_eq!(request.method(), http::Method::CONNECT);
        assert_eq!(request.extensions().get::<Protocol>().unwrap().as_str(), "connect-ip");
        assert_eq!(request.headers()["capsule-protocol"], "?1");
    }

    #[test]
    fn a_bad_authority_is_named() {
        let error = to_http(&request::unlimited("two words")).unwrap_err().to_string();
        assert!(error.contains("authority \"two words\""), "{error}");
    }
}
