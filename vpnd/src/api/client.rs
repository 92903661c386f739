//! The other side of the local API, for `vpnctl` and for tests.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use m2m_protocol::enrolment::Problem;
use tokio::net::UnixStream;

use super::Status;

const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 1024 * 1024;

/// What can be asked of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// What it is doing.
    Status,
    /// To open the tunnel.
    Connect,
    /// To close the tunnel.
    Disconnect,
}

/// Asks the daemon at `socket`; its status comes back, as text (JSON) and parsed.
///
/// # Errors
/// [`CallError`].
pub async fn call(socket: &Path, call: Call) -> Result<(String, Status), CallError> {
    let answer = tokio::time::timeout(TIMEOUT, exchange(socket, call)).await;
    let (status, body) = answer.unwrap_or_else(|_| Err(CallError::Broken("no answer in time".to_owned())))?;
    let broken = |error: &dyn std::fmt::Display| CallError::Broken(error.to_string());
    if status != 200 {
        let problem: Problem = serde_json::from_slice(&body).map_err(|error| broken(&error))?;
        let text = problem.detail.unwrap_or(problem.title);
        return Err(if status == 403 { CallError::NotAllowed(text) } else { CallError::Broken(text) });
    }
    let text = String::from_utf8(body.to_vec()).map_err(|error| broken(&error))?;
    let status = serde_json::from_str(&text).map_err(|error| broken(&error))?;
    Ok((text, status))
}

/// Why the daemon did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens.
    #[error("vpnd cannot be reached at {}: {source}; is vpnd.service running?", socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// The caller is neither root nor in group `vpnd`.
    #[error("not allowed: {0}")]
    NotAllowed(String),
    /// The answer is not one.
    #[error("vpnd did not answer as expected: {0}")]
    Broken(String),
}

async fn exchange(socket: &Path, call: Call) -> Result<(u16, Bytes), CallError> {
    let (method, path) = match call {
        Call::Status => (Method::GET, "/v1/status"),
        Call::Connect => (Method::POST, "/v1/connect"),
        Call::Disconnect => (Method::POST, "/v1/disconnect"),
    };
    let stream = UnixStream::connect(socket).await.map_err(|source| match source.kind() {
        io::ErrorKind::PermissionDenied => CallError::NotAllowed(format!("{}: {source}", socket.display())),
        _ => CallError::Unreachable { socket: socket.to_owned(), source },
    })?;
    let broken = |error: hyper::Error| CallError::Broken(error.to_string());
    let (mut requests, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    let driver = tokio::spawn(driver);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "vpnd")
        .body(Empty::<Bytes>::new())
        .map_err(|error| CallError::Broken(error.to_string()))?;
    let (head, body) = requests.send_request(request).await.map_err(broken)?.into_parts();
    let body =
        Limited::new(body, MAX_BODY).collect().await.map_err(|error| CallError::Broken(error.to_string()))?.to_bytes();
    driver.abort();
    Ok((head.status.as_u16(), body))
}
