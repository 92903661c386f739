//! Getting the revocation list: from a file, or over HTTP.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use m2m_identity::tls::{self, ClientTls, TrustAnchors};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use url::Url;

use crate::config::{Crl, CrlSource};

/// Where the list comes from, ready to be asked.
pub(crate) enum Source {
    /// A file.
    File(PathBuf),
    /// A server.
    Url {
        /// Where on it.
        url: Url,
        /// For https.
        tls: Arc<rustls::ClientConfig>,
    },
}

impl Source {
    /// Reads the trust anchor, if there is one.
    ///
    /// # Errors
    /// Names the file.
    pub(crate) fn new(config: &Crl, client_ca: &Path) -> anyhow::Result<Self> {
        match &config.source {
            CrlSource::File(file) => Ok(Self::File(file.clone())),
            CrlSource::Url { url, trust_anchor } => {
                let file = trust_anchor.as_deref().unwrap_or(client_ca);
                let pem = std::fs::read(file).with_context(|| file.display().to_string())?;
                let anchors = TrustAnchors::parse(&pem).with_context(|| file.display().to_string())?;
                let tls = tls::client_config(ClientTls {
                    anchors: &anchors,
                    identity: None,
                    alpn: &[b"http/1.1"],
                    clock: Arc::new(rustls::time_provider::DefaultTimeProvider),
                })?;
                Ok(Self::Url { url: url.url().clone(), tls: Arc::new(tls) })
            }
        }
    }

    /// The list's bytes.
    ///
    /// # Errors
    /// Names the file or URL.
    pub(crate) async fn fetch(&self) -> anyhow::Result<Vec<u8>> {
        match self {
            Self::File(file) => tokio::fs::read(file).await.with_context(|| file.display().to_string()),
            Self::Url { url, tls } => tokio::time::timeout(TIMEOUT, get(url, Arc::clone(tls)))
                .await
                .map_err(|_| anyhow::anyhow!("no answer within {} s", TIMEOUT.as_secs()))
                .flatten()
                .with_context(|| url.to_string()),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => write!(f, "{}", file.display()),
            Self::Url { url, .. } => write!(f, "{url}"),
        }
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);
/// The list of a CA with a million revoked certificates is about 40 MB.
const MAX_BYTES: usize = 64 << 20;

async fn get(url: &Url, tls: Arc<rustls::ClientConfig>) -> anyhow::Result<Vec<u8>> {
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else { bail!("no host in the URL") };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((host, port)).await?;
    if url.scheme() != "https" {
        return get_over(stream, url).await;
    }
    let name = ServerName::try_from(host.to_owned())?;
    get_over(tokio_rustls::TlsConnector::from(tls).connect(name, stream).await?, url).await
}

async fn get_over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, url: &Url) -> anyhow::Result<Vec<u8>> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
        .header(http::header::HOST, &url[url::Position::BeforeHost..url::Position::AfterPort])
        .header(http::header::USER_AGENT, concat!("m2m-gateway/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<bytes::Bytes>::new())?;
    let response = sender.send_request(request).await?;
    ensure!(response.status() == http::StatusCode::OK, "the server answered {}", response.status());
    let body = Limited::new(response.into_body(), MAX_BYTES)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
    connection.abort();
    Ok(body.to_bytes().to_vec())
}
