//! A manager that says over TLS what a test tells it to say.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use m2m_identity::tls::{ClientAuthentication, Identity, ServerTls, server_config};
use m2m_protocol::enrolment::{ActivateRequest, EnrolRequest};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// What the device asked.
#[derive(Debug)]
pub(crate) enum Asked {
    Enrol(Box<EnrolRequest>),
    Activate { session: String, secret: Vec<u8> },
}

/// Bytes to send as the answer to a request, the connection ends after the last one.
pub(crate) type Answers = Box<dyn FnMut(Asked) -> Vec<u8> + Send>;

/// Starts a manager; the stream leads to it. It serves one connection.
pub(crate) fn start(identity: &Identity, mut answers: Answers) -> (DuplexStream, JoinHandle<io::Result<()>>) {
    let tls = ServerTls { identity, clients: ClientAuthentication::None, alpn: &[b"http/1.1"] };
    let acceptor = TlsAcceptor::from(Arc::new(server_config(tls).unwrap()));
    let (near, far) = duplex(64 * 1024);
    let task = tokio::spawn(async move {
        let mut stream = acceptor.accept(far).await?;
        for _ in 0..2 {
            let asked = read_request(&mut stream).await?;
            let answer = answers(asked);
            stream.write_all(&answer).await?;
            stream.flush().await?;
            if !is_whole(&answer) {
                break;
            }
        }
        stream.shutdown().await
    });
    (near, task)
}

/// An answer with a JSON body.
pub(crate) fn json(status: u16, body: &Value) -> Vec<u8> {
    http(status, body.to_string().as_bytes())
}

/// An answer with any body.
pub(crate) fn http(status: u16, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Whatever\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn is_whole(answer: &[u8]) -> bool {
    head_and_length(answer).is_some_and(|(head, length)| answer.len() == head + length)
}

/// The length of the head and the length of the body that it promises.
fn head_and_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()?;
    Some((head, length))
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Asked> {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match head_and_length(&bytes) {
            Some((head, length)) if bytes.len() >= head + length => break (head, length),
            _ => {}
        }
    };
    let path = String::from_utf8_lossy(&bytes).split(' ').nth(1).unwrap().to_owned();
    assert!(bytes.starts_with(b"POST "));
    let body = &bytes[head..head + length];
    Ok(match path.strip_prefix("/api/v1/enrol").unwrap() {
        "" => Asked::Enrol(serde_json::from_slice(body).unwrap()),
        session => {
            let request: ActivateRequest = serde_json::from_slice(body).unwrap();
            Asked::Activate { session: session.trim_start_matches('/').to_owned(), secret: request.secret.0 }
        }
    })
}

/// A stream that ends after `left` bytes were read from it, as a connection does that is cut.
pub(crate) struct Cut {
    pub(crate) stream: DuplexStream,
    pub(crate) left: usize,
}

impl AsyncRead for Cut {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut part = buffer.take(self.left);
        let result = Pin::new(&mut self.stream).poll_read(context, &mut part);
        let count = part.filled().len();
        // The part is a view of the same memory, whose bytes are initialized as far as they are filled.
        let bytes = part.filled().to_vec();
        buffer.put_slice(&bytes);
        self.left -= count;
        result
    }
}

impl AsyncWrite for Cut {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
