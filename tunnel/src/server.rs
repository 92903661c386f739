//! Accepting a tunnel.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use quinn::SendStream;
use tokio::sync::mpsc;

use crate::{
    exchange::{self, Broken, Inbound},
    http3::{Code, message::Request, settings::Settings, stream::ControlEvent},
    link::{Link, Owner},
    peer, qpack,
    request::{self, Refusal, Scope},
    session::{CloseReason, Session, Streams},
};

/// How long a client may take to ask for a tunnel.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a refused client may take to acknowledge the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Waits for the client's CONNECT-IP request on a fresh connection, which it owns from then on: an error, or dropping the
/// future, closes it. Any other request gets 404 (GET, HEAD) or 501, a CONNECT-IP request for less than all targets and
/// protocols 400; the client may ask again within [`REQUEST_TIMEOUT`].
///
/// # Errors
/// [`AcceptError`].
pub async fn accept(connection: quinn::Connection) -> Result<Incoming, AcceptError> {
    let link = Link::new(connection);
    let owner = Owner(Arc::clone(&link));
    let incoming = match tokio::time::timeout(REQUEST_TIMEOUT, wait(&link, owner)).await {
        Ok(incoming) => incoming?,
        Err(_) => {
            link.close(CloseReason::Local, Code::REQUEST_INCOMPLETE, "no request in time");
            return Err(AcceptError::TimedOut);
        }
    };
    let (settings, incoming) = incoming;
    if !settings.h3_datagram {
        incoming.reject(StatusCode::BAD_REQUEST, "HTTP datagrams are needed").await;
        return Err(AcceptError::Unsupported);
    }
    Ok(incoming)
}

/// A client that asks for a tunnel. Dropping it closes the connection.
#[derive(Debug)]
pub struct Incoming {
    owner: Owner,
    authority: String,
    streams: Streams,
}

impl Incoming {
    /// The name under which the client reached this gateway.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Answers 200. Addresses and routes come after it, by [`Session::control`].
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn accept(mut self) -> Result<Session, AcceptError> {
        exchange::send_fields(&mut self.streams.outbound, &request::granted().to_fields())
            .await
            .map_err(|broken| broken.close(&self.owner.0))?;
        Ok(Session::start(self.owner, self.streams))
    }

    /// Refuses with `status` and says why in plain text, waits until the client has it (2 seconds at most) and closes
    /// the connection.
    pub async fn reject(mut self, status: StatusCode, reason: &str) {
        let outbound = &mut self.streams.outbound;
        let told = async {
            exchange::answer(outbound, status, reason).await?;
            outbound.stopped().await.map_err(|_| Broken::Lost)
        };
        if !matches!(tokio::time::timeout(ANSWER_TIMEOUT, told).await, Ok(Ok(_))) {
            log::debug!("refused client did not wait for the answer");
        }
    }
}

async fn wait(link: &Arc<Link>, owner: Owner) -> Result<(Settings, Incoming), AcceptError> {
    let mut peer = peer::follow(link, false);
    let settings = Settings {
        h3_datagram: true,
        enable_connect_protocol: true,
        max_field_section_size: Some(qpack::MAX_FIELD_SECTION_SIZE as u64),
    };
    let control = peer::open_control(link, &settings).await?;
    let (authority, outbound, inbound) = await_request(link).await?;
    let settings = await_settings(link, &mut peer).await?;
    let streams = Streams { is_server: true, inbound, outbound, control, peer };
    Ok((settings, Incoming { owner, authority, streams }))
}

async fn await_request(link: &Link) -> Result<(String, SendStream, Inbound), AcceptError> {
    loop {
        let (mut outbound, inbound) = link.connection.accept_bi().await.map_err(|_| link.reason())?;
        let mut inbound = Inbound::new(inbound);
        let request = match inbound.fields().await.and_then(|fields| Ok(Request::from_fields(fields)?)) {
            Ok(request) => request,
            // A request that the client gave up concerns no other.
            Err(Broken::Reset(_)) => continue,
            Err(broken) => return Err(broken.close(link).into()),
        };
        let Err(refusal) = check(&request) else {
            return Ok((request.authority, outbound, inbound));
        };
        inbound.stop();
        let text = if request.method == "HEAD" { "" } else { &refusal.reason };
        match exchange::answer(&mut outbound, refusal.status, text).await {
            Err(Broken::Lost) => return Err(link.reason().into()),
            // Who does not want the answer does not get it.
            _ => continue,
        }
    }
}

fn check(request: &Request) -> Result<(), Refusal> {
    if request::scope(request)? == Scope::default() {
        return Ok(());
    }
    Err(Refusal { status: StatusCode::BAD_REQUEST, reason: "only target * and ipproto * are served".into() })
}

async fn await_settings(link: &Link, peer: &mut mpsc::Receiver<ControlEvent>) -> Result<Settings, AcceptError> {
    match peer.recv().await {
        Some(ControlEvent::Settings(settings)) => Ok(settings),
        _ => Err(link.closed().await.into()),
    }
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AcceptError {
    /// The client does not accept HTTP datagrams.
    #[error("the client does not accept HTTP datagrams")]
    Unsupported,
    /// No CONNECT-IP request within [`REQUEST_TIMEOUT`].
    #[error("the client did not ask for a tunnel in time")]
    TimedOut,
    /// The connection ended before the request.
    #[error("{0}")]
    Closed(#[from] CloseReason),
}
