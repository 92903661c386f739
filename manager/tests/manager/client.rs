//! An HTTPS client that trusts one CA, and may have a certificate.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use m2m_identity::tls::{ClientTls, FlooredClock, Identity, client_config};
use m2m_protocol::enrolment::Problem;
use rustls_pki_types::{ServerName, UnixTime};
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::manager::Manager;

const LIMIT: Duration = Duration::from_secs(60);

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The body of an answer that has to have the status `status`.
    pub(crate) fn json<T: DeserializeOwned>(&self, status: u16) -> T {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The detail of an error with the status `status`.
    pub(crate) fn problem(&self, status: u16) -> String {
        let problem: Problem = self.json(status);
        assert_eq!(problem.status, status);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        problem.detail.unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// Who asks.
pub(crate) struct Client<'a> {
    pub(crate) manager: &'a Manager,
    pub(crate) identity: Option<&'a Identity>,
}

impl<'a> Client<'a> {
    pub(crate) fn anonymous(manager: &'a Manager) -> Self {
        Self { manager, identity: None }
    }

    pub(crate) fn with(manager: &'a Manager, identity: &'a Identity) -> Self {
        Self { manager, identity: Some(identity) }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], Vec::new()).await.unwrap()
    }

    pub(crate) async fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(Method::POST, path, &[], body.into()).await.unwrap()
    }

    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        tokio::time::timeout(LIMIT, self.exchange(method, path, headers, body)).await?
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, String)],
        body: Vec<u8>,
    ) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
        let tls = client_config(ClientTls {
            anchors: &self.manager.anchors(),
            identity: self.identity,
            alpn: &[b"http/1.1"],
            clock: Arc::new(FlooredClock::new(UnixTime::since_unix_epoch(Duration::ZERO))),
        })?;
        let stream = TcpStream::connect(self.manager.address).await?;
        let name = ServerName::try_from("manager.example")?;
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header("host", "manager.example");
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        sender.ready().await?;
        let response = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await?.to_bytes().to_vec();
        drop(sender);
        connection.abort();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }
}
