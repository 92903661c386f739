//! Accepting a tunnel.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::{
    RecvStream,
    ext::Protocol,
    server::{self, SendResponse},
};
use http::{Response, header};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    FRAME_SIZE, Http2Tunnel, MAX_HEADER_LIST, SMALL_FRAMES, WINDOW,
    backlog::Chunk,
    driver::{self, MAX_REFUSED, ServerConnection},
    link::{Link, Owner},
    reason,
    transport::{Socket, Transport},
    tunnel::Pings,
};
use crate::{
    http3::{Code, ProtocolError, message},
    qpack::Field,
    request::{self, Refusal, Scope},
    server::AcceptError,
    session::CloseReason,
    template::Matcher,
};

/// How long a client may take to ask for a tunnel.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refused client may take to say that it has the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Requests that a client may have open at once.
const MAX_REQUESTS: u32 = 8;

/// Streams that were reset and are still remembered, of either kind; a client that makes more of them is disconnected.
const MAX_RESET: usize = 8;

/// Stream errors of the client until it is disconnected.
const MAX_STREAM_ERRORS: usize = 32;

/// Waits for the client's CONNECT-IP request on a fresh connection, TLS done, which it owns from then on: an error, or
/// dropping the future, closes it. Any other request gets 404 (GET, HEAD) or 501, one whose path does not
/// follow the template of `matcher` 400; the client may ask again. It has 10 seconds for all that.
///
/// # Errors
/// [`AcceptError`].
pub async fn accept<T>(io: T, matcher: Arc<Matcher>) -> Result<Incoming, AcceptError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    accept_within(REQUEST_TIMEOUT, io, &matcher).await
}

/// A client that asks for a tunnel. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    owner: Owner,
    request: message::Request,
    scope: Scope,
    respond: SendResponse<Chunk>,
    inbound: RecvStream,
    pings: Pings,
}

impl Incoming {
    /// The name under which the client reached this gateway.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.request.authority
    }

    /// The request.
    #[must_use]
    pub fn request(&self) -> &message::Request {
        &self.request
    }

    /// What the tunnel is to be confined to.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Answers 200. Addresses and routes come after it, by [`super::Control`].
    ///
    /// # Errors
    /// When the connection is gone, or the client does not want the tunnel any more.
    pub async fn accept(mut self) -> Result<Http2Tunnel, AcceptError> {
        let mut response = Response::new(());
        let granted = request::granted();
        *response.status_mut() = granted.status;
        for field in granted.fields {
            let name = header::HeaderName::from_bytes(&field.name);
            if let (Ok(name), Ok(value)) = (name, header::HeaderValue::from_maybe_shared(Bytes::from(field.value))) {
                response.headers_mut().append(name, value);
            }
        }
        match self.respond.send_response(response, false) {
            Ok(outbound) => self.owner.0.open(outbound),
            Err(error) => return Err(self.lost(&error).await.into()),
        }
        Ok(Http2Tunnel::new(self.owner, self.inbound, self.pings))
    }

    /// Refuses and says why in plain text, waits until the client has it (2 seconds at most) and closes
    /// the connection.
    pub async fn reject(self, refusal: &Refusal) {
        let Self { owner, respond, inbound, .. } = self;
        answer(respond, refusal, &refusal.reason);
        drop(inbound);
        // Its PING comes back when the client has read the answer.
        owner.0.go_away();
        if tokio::time::timeout(ANSWER_TIMEOUT, owner.0.ending()).await.is_err() {
            log::debug!("refused client did not wait for the answer");
        }
    }

    async fn lost(&self, error: &h2::Error) -> CloseReason {
        if error.is_reset() {
            self.owner.0.close(reason::of_error(error, &self.owner.0.socket), h2::Reason::CANCEL);
        }
        self.owner.0.ending().await
    }
}

async fn accept_within<T>(patience: Duration, io: T, matcher: &Matcher) -> Result<Incoming, AcceptError>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match tokio::time::timeout(patience, wait(io, matcher)).await {
        Ok(incoming) => Ok(incoming?),
        Err(_) => Err(AcceptError::TimedOut),
    }
}

async fn wait<T>(io: T, matcher: &Matcher) -> Result<Incoming, CloseReason>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (io, socket) = Transport::new(io);
    let mut connection: ServerConnection<T> =
        settings().handshake(io).await.map_err(|error| reason::of_error(&error, &socket))?;
    let pings = Pings::new(connection.ping_pong().ok_or(CloseReason::Local)?);
    for _ in 0..MAX_REFUSED {
        let (request, respond) = match connection.accept().await {
            Some(Ok(exchange)) => exchange,
            Some(Err(error)) => return Err(reason::of_error(&error, &socket)),
            None => return Err(reason::of_end(Ok(()), None, &socket)),
        };
        let (request, inbound) = request.into_parts();
        let request = from_http(request);
        let refusal = match request::scope_at(matcher, &request) {
            Ok(scope) => {
                let owner = drive(connection, socket);
                return Ok(Incoming { owner, request, scope, respond, inbound, pings });
            }
            Err(refusal) => refusal,
        };
        answer(respond, &refusal, if request.method == "HEAD" { "" } else { &refusal.reason });
    }
    let owner = drive(connection, socket);
    owner.0.fail(ProtocolError::new(Code::EXCESSIVE_LOAD, "too many requests that are none for a tunnel"));
    Err(owner.0.ending().await)
}

fn drive<T>(connection: ServerConnection<T>, socket: Socket) -> Owner
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (link, orders) = Link::new(socket);
    let owner = Owner(Arc::clone(&link));
    tokio::spawn(driver::of_server(connection, link, orders));
    owner
}

fn settings() -> server::Builder {
    let mut builder = server::Builder::new();
    builder
        .enable_connect_protocol()
        // The connection's window stays small until the tunnel is granted.
        .initial_window_size(WINDOW)
        .max_frame_size(FRAME_SIZE)
        .max_header_list_size(MAX_HEADER_LIST)
        .max_concurrent_streams(MAX_REQUESTS)
        .max_concurrent_reset_streams(MAX_RESET)
        .max_pending_accept_reset_streams(MAX_RESET)
        .max_local_error_reset_streams(Some(MAX_STREAM_ERRORS))
        .data_frame_budget(SMALL_FRAMES);
    builder
}

/// Queues a whole answer in plain text. Who does not want it does not get it.
fn answer(mut respond: SendResponse<Chunk>, refusal: &Refusal, text: &str) {
    let mut response = Response::new(());
    *response.status_mut() = refusal.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain;charset=utf-8"));
    headers.insert(header::CONTENT_LENGTH, text.len().into());
    if let Some(value) = refusal.proxy_status().and_then(|value| header::HeaderValue::try_from(value).ok()) {
        headers.insert("proxy-status", value);
    }
    let sent = respond.send_response(response, text.is_empty()).and_then(|mut outbound| match text {
        "" => Ok(()),
        _ => outbound.send_data(Chunk::uncounted(Bytes::copy_from_slice(text.as_bytes())), true),
    });
    if let Err(error) = sent {
        log::debug!("refused client did not wait for the answer: {error}");
    }
}

fn from_http(request: http::request::Parts) -> message::Request {
    let uri = &request.uri;
    let fields = request.headers.iter();
    let fields = fields.map(|(name, value)| Field { name: name.as_str().into(), value: value.as_bytes().into() });
    message::Request {
        method: request.method.as_str().into(),
        scheme: uri.scheme_str().unwrap_or_default().into(),
        authority: uri.authority().map(|authority| authority.as_str().into()).unwrap_or_default(),
        path: uri.path_and_query().map(|path| path.as_str().into()).unwrap_or_default(),
        protocol: request.extensions.get::<Protocol>().map(|protocol| protocol.as_str().into()),
        fields: fields.collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn silence_and_a_slow_drip_end_in_time() {
        let patience = Duration::from_millis(200);
        let (_near, far) = tokio::io::duplex(1024);
        assert_eq!(accept_within(patience, far, &Matcher::default()).await.unwrap_err(), AcceptError::TimedOut);
        let (mut near, far) = tokio::io::duplex(1024);
        let matcher = Matcher::default();
        let dripping = async {
            let mut drops = tokio::time::interval(patience / 20);
            for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".iter().chain([&0; 1000]) {
                drops.tick().await;
                near.write_all(&[*byte]).await.unwrap();
            }
        };
        let outcome = tokio::select! {
            outcome = accept_within(patience, far, &matcher) => outcome,
            () = dripping => unreachable!(),
        };
        assert_eq!(outcome.unwrap_err(), AcceptError::TimedOut);
    }
}
