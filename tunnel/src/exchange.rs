//! A request stream over QUIC: field sections and content, in and out.

use bytes::Bytes;
use http::StatusCode;
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use crate::{
    http3::{
        Code, ProtocolError, frame,
        message::Response,
        stream::{RequestEvent, RequestStream},
    },
    link::{Link, varint},
    peer::MAX_CHUNK,
    qpack::{self, Field},
    session::CloseReason,
};

/// The receiving direction.
#[derive(Debug)]
pub(crate) struct Inbound {
    stream: RecvStream,
    parser: RequestStream,
}

/// Why nothing more comes.
#[derive(Debug)]
pub(crate) enum Broken {
    /// The peer sent what it must not.
    Protocol(ProtocolError),
    /// The peer gave the stream up.
    Reset(Code),
    /// The connection is gone.
    Lost,
}

impl From<ProtocolError> for Broken {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}

impl Inbound {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, parser: RequestStream::default() }
    }

    /// The next event; `None` when the stream ended in order. Cancel safe.
    pub(crate) async fn next_event(&mut self) -> Result<Option<RequestEvent>, Broken> {
        loop {
            if let Some(event) = self.parser.next_event()? {
                return Ok(Some(event));
            }
            match self.stream.read_chunk(MAX_CHUNK, true).await {
                Ok(Some(chunk)) => self.parser.push(&chunk.bytes),
                Ok(None) => {
                    self.parser.finish()?;
                    return Ok(None);
                }
                Err(ReadError::Reset(code)) => return Err(Broken::Reset(Code(code.into_inner()))),
                Err(_) => return Err(Broken::Lost),
            }
        }
    }

    /// The fields that the stream begins with.
    pub(crate) async fn fields(&mut self) -> Result<Vec<Field>, Broken> {
        match self.next_event().await? {
            Some(RequestEvent::Headers(section)) => Ok(qpack::decode(&section)?),
            // The parser lets nothing else through at the beginning.
            _ => Err(ProtocolError::new(Code::REQUEST_INCOMPLETE, "stream without fields").into()),
        }
    }

    pub(crate) fn expect_fields(&mut self) {
        self.parser.expect_headers();
    }

    /// The content as text, at most `limit` bytes of it. What breaks the stream ends the text.
    pub(crate) async fn text(&mut self, limit: usize) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < limit {
            let Ok(Some(RequestEvent::Data(piece))) = self.next_event().await else {
                break;
            };
            text.extend_from_slice(&piece);
        }
        text.truncate(limit);
        text
    }

    /// Says that nothing more is read.
    pub(crate) fn stop(&mut self) {
        // It fails only when the stream is over already.
        let _ = self.stream.stop(varint(Code::NO_ERROR));
    }
}

impl Broken {
    /// Ends the tunnel for this cause, which it gives.
    pub(crate) fn close(self, link: &Link) -> CloseReason {
        match self {
            Self::Protocol(error) => link.fail(&error),
            Self::Reset(code) => {
                let ending = CloseReason::Peer { code, reason: String::new() };
                link.close(ending, Code::NO_ERROR, "");
            }
            Self::Lost => {}
        }
        link.reason()
    }
}

/// Sends a field section.
pub(crate) async fn send_fields(stream: &mut SendStream, fields: &[Field]) -> Result<(), Broken> {
    let mut out = Vec::new();
    frame::write(frame::kind::HEADERS, &qpack::encode(fields), &mut out);
    send(stream, out.into()).await
}

/// Sends content.
pub(crate) async fn send_data(stream: &mut SendStream, content: &[u8]) -> Result<(), Broken> {
    let mut out = Vec::with_capacity(content.len() + 16);
    frame::write(frame::kind::DATA, content, &mut out);
    send(stream, out.into()).await
}

/// Sends bytes as they are.
pub(crate) async fn send(stream: &mut SendStream, bytes: Bytes) -> Result<(), Broken> {
    stream.write_chunk(bytes).await.map_err(|error| match error {
        WriteError::Stopped(code) => Broken::Reset(Code(code.into_inner())),
        _ => Broken::Lost,
    })
}

/// Sends a whole answer in plain text.
pub(crate) async fn answer(stream: &mut SendStream, status: StatusCode, text: &str) -> Result<(), Broken> {
    let response = Response {
        status,
        fields: vec![
            Field::new("content-type", "text/plain;charset=utf-8"),
            Field::new("content-length", &text.len().to_string()),
        ],
    };
    send_fields(stream, &response.to_fields()).await?;
    if !text.is_empty() {
        send_data(stream, text.as_bytes()).await?;
    }
    stream.finish().map_err(|_| Broken::Lost)
}
