//! HTTP/1.1 over TLS to the manager: one connection, requests one after the other.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use m2m_identity::tls::{ClientTls, TlsError, client_config};
use m2m_protocol::enrolment::MAX_BODY;
use rustls_pki_types::{InvalidDnsNameError, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::Manager;
use crate::clock::Clock;
use crate::peer::{self, Distrust};

/// How long TLS may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a request may take from its first byte to its answer's last one.
const REQUEST: Duration = Duration::from_secs(30);

/// A connection to the manager.
#[derive(Debug)]
pub(super) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    authority: String,
    _driver: Driver,
}

/// An answer.
#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) body: Bytes,
}

impl Connection {
    pub(super) async fn open<S>(stream: S, manager: &Manager, clock: &Clock) -> Result<Self, HttpsError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let tls = client_config(ClientTls {
            anchors: &manager.anchors,
            identity: None,
            alpn: &[b"http/1.1"],
            clock: clock.provider(),
        })?;
        let name = ServerName::try_from(manager.origin.server_name())?;
        let handshake = TlsConnector::from(Arc::new(tls)).connect(name, stream);
        let stream = match timeout(HANDSHAKE, handshake).await {
            Err(_) => return Err(HttpsError::TimedOut("TLS handshake")),
            Ok(Err(error)) => {
                return Err(match peer::of_tls(&error, clock) {
                    Some(distrust) => HttpsError::Distrust(distrust),
                    None => HttpsError::Tls(error),
                });
            }
            Ok(Ok(stream)) => stream,
        };
        let (requests, driver) = http1::handshake(TokioIo::new(stream)).await?;
        // The driver's error reaches whoever waits for an answer.
        let driver = tokio::spawn(async move { driver.await.unwrap_or_default() });
        Ok(Self { requests, authority: manager.origin.authority(), _driver: Driver(driver) })
    }

    pub(super) async fn post(&mut self, path: &str, body: Vec<u8>) -> Result<Response, HttpsError> {
        timeout(REQUEST, self.post_untimed(path, body)).await.map_err(|_| HttpsError::TimedOut("answer"))?
    }

    async fn post_untimed(&mut self, path: &str, body: Vec<u8>) -> Result<Response, HttpsError> {
        let request = Request::post(path)
            .header(header::HOST, &self.authority)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json, application/problem+json")
            .header(header::USER_AGENT, concat!("vpnd/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::from(body)))
            .map_err(HttpsError::Request)?;
        self.requests.ready().await?;
        let (head, body) = self.requests.send_request(request).await?.into_parts();
        let body =
            Limited::new(body, MAX_BODY).collect().await.map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => HttpsError::Http(*error),
                Err(error) if error.is::<LengthLimitError>() => HttpsError::TooLarge,
                Err(error) => HttpsError::Tls(io::Error::other(error)),
            })?;
        Ok(Response { status: head.status.as_u16(), body: body.to_bytes() })
    }
}

/// The task that moves the connection's bytes; it ends with the connection.
#[derive(Debug)]
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpsError {
    /// One side does not trust the other.
    #[error("{}", match .0 { Distrust::OfServer(text) | Distrust::OfDevice(text) => text })]
    Distrust(Distrust),
    /// TLS or the connection below it failed.
    #[error("the connection failed: {0}")]
    Tls(#[source] io::Error),
    /// The TLS configuration is not possible.
    #[error("{0}")]
    Configuration(#[from] TlsError),
    /// The origin's host is no name that TLS knows.
    #[error("the manager's name cannot be used with TLS: {0}")]
    Name(#[from] InvalidDnsNameError),
    /// HTTP failed: the answer was cut off, or is not HTTP.
    #[error("the answer is cut off or is not HTTP: {0}")]
    Http(#[from] hyper::Error),
    /// The request cannot be written.
    #[error("the request cannot be written: {0}")]
    Request(#[source] http::Error),
    /// The answer is larger than anything in the protocol.
    #[error("the answer is larger than {MAX_BODY} bytes")]
    TooLarge,
    /// Nothing came in time.
    #[error("no {0} in time")]
    TimedOut(&'static str),
}
