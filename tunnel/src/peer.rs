//! What the peer says about the connection: its unidirectional streams.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering},
};

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream};
use tokio::{sync::mpsc, task::JoinSet};

use crate::{
    http3::{
        Code, ProtocolError, frame,
        settings::Settings,
        stream::{ControlEvent, ControlStream, QpackDecoderStream, check_qpack_encoder, uni},
    },
    link::{Link, varint},
    session::CloseReason,
    varint as integer,
};

/// Opens this side's control stream.
pub(crate) async fn open_control(link: &Link, settings: &Settings) -> Result<SendStream, CloseReason> {
    let mut out = Vec::new();
    integer::write(uni::CONTROL, &mut out);
    frame::write(frame::kind::SETTINGS, &settings.encode(), &mut out);
    let mut stream = link.connection.open_uni().await.map_err(|_| link.reason())?;
    stream.write_all(&out).await.map_err(|_| link.reason())?;
    Ok(stream)
}

/// Follows the peer's unidirectional streams until the connection ends; what it does wrong closes the connection.
pub(crate) fn follow(link: &Arc<Link>, from_server: bool) -> mpsc::Receiver<ControlEvent> {
    let (events, receiver) = mpsc::channel(8);
    let peer = Arc::new(Peer { link: Arc::clone(link), from_server, opened: AtomicU8::new(0), events });
    tokio::spawn(async move {
        let mut streams = JoinSet::new();
        while let Ok(stream) = peer.link.connection.accept_uni().await {
            let peer = Arc::clone(&peer);
            streams.spawn(async move {
                if let Err(error) = peer.read(stream).await {
                    peer.link.fail(&error);
                }
            });
            while streams.try_join_next().is_some() {}
        }
    });
    receiver
}

struct Peer {
    link: Arc<Link>,
    from_server: bool,
    /// One bit for each critical stream that was opened.
    opened: AtomicU8,
    events: mpsc::Sender<ControlEvent>,
}

impl Peer {
    async fn read(&self, mut stream: RecvStream) -> Result<(), ProtocolError> {
        let Some((kind, rest)) = read_type(&mut stream).await else {
            return Ok(());
        };
        match kind {
            uni::CONTROL => self.read_control(stream, rest).await,
            uni::QPACK_ENCODER => {
                self.open_critical(kind)?;
                let mut piece = Some(rest);
                while let Some(bytes) = piece {
                    check_qpack_encoder(&bytes)?;
                    piece = read_critical(&mut stream).await?;
                }
                Ok(())
            }
            uni::QPACK_DECODER => {
                self.open_critical(kind)?;
                let mut decoder = QpackDecoderStream::default();
                let mut piece = Some(rest);
                while let Some(bytes) = piece {
                    decoder.push(&bytes)?;
                    piece = read_critical(&mut stream).await?;
                }
                Ok(())
            }
            uni::PUSH if self.from_server => Err(ProtocolError::new(Code::ID_ERROR, "push was never allowed")),
            uni::PUSH => Err(ProtocolError::new(Code::STREAM_CREATION_ERROR, "push stream from a client")),
            _ => {
                // Unknown types are ignored (RFC 9114 §6.2.3). It fails only when the stream is over already.
                let _ = stream.stop(varint(Code::STREAM_CREATION_ERROR));
                Ok(())
            }
        }
    }

    async fn read_control(&self, mut stream: RecvStream, rest: Bytes) -> Result<(), ProtocolError> {
        self.open_critical(uni::CONTROL)?;
        let mut control = ControlStream::new(self.from_server);
        let mut piece = Some(rest);
        while let Some(bytes) = piece {
            control.push(&bytes);
            while let Some(event) = control.next_event()? {
                if let ControlEvent::Settings(settings) = event {
                    self.check_settings(&settings)?;
                }
                // Without a receiver nobody wants to know any more.
                let _ = self.events.send(event).await;
            }
            piece = read_critical(&mut stream).await?;
        }
        Ok(())
    }

    fn check_settings(&self, settings: &Settings) -> Result<(), ProtocolError> {
        if settings.h3_datagram && self.link.connection.max_datagram_size().is_none() {
            let reason = "HTTP datagrams without QUIC datagrams";
            return Err(ProtocolError::new(Code::SETTINGS_ERROR, reason));
        }
        Ok(())
    }

    fn open_critical(&self, kind: u64) -> Result<(), ProtocolError> {
        let bit = 1 << kind;
        if self.opened.fetch_or(bit, Ordering::Relaxed) & bit == 0 {
            return Ok(());
        }
        let reason = format!("second stream of type {kind:#x}");
        Err(ProtocolError::new(Code::STREAM_CREATION_ERROR, reason))
    }
}

/// The type at the beginning of a stream and what came after it; `None` when the stream ends before.
async fn read_type(stream: &mut RecvStream) -> Option<(u64, Bytes)> {
    let mut input = BytesMut::new();
    loop {
        let chunk = stream.read_chunk(MAX_CHUNK, true).await.ok()??;
        input.extend_from_slice(&chunk.bytes);
        if let Some((kind, size)) = integer::read(&input) {
            return Some((kind, input.split_off(size).freeze()));
        }
    }
}

/// What a stream brought that must not end before the connection; `None` when the connection is gone.
async fn read_critical(stream: &mut RecvStream) -> Result<Option<Bytes>, ProtocolError> {
    match stream.read_chunk(MAX_CHUNK, true).await {
        Ok(Some(chunk)) => Ok(Some(chunk.bytes)),
        Ok(None) | Err(ReadError::Reset(_)) => {
            Err(ProtocolError::new(Code::CLOSED_CRITICAL_STREAM, "a stream that must stay was closed"))
        }
        Err(_) => Ok(None),
    }
}

/// Bytes that are taken off a stream at once.
pub(crate) const MAX_CHUNK: usize = 16 * 1024;
