//! Opening a tunnel.

use std::{sync::Arc, time::Duration};

use http::StatusCode;
use tokio::sync::mpsc;

use crate::{
    exchange::{self, Inbound},
    http3::{Code, ProtocolError, message::Response, settings::Settings, stream::ControlEvent},
    link::{Link, Owner, printable},
    peer, qpack, request,
    session::{CloseReason, Session, Streams},
};

/// Bytes of a refusal that are read.
const MAX_REASON: usize = 1024;

/// What to ask the gateway for.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The gateway's name, and port unless 443, as it stands in `:authority`.
    pub authority: String,
    /// How long the gateway may take to answer.
    pub timeout: Duration,
}

impl ConnectRequest {
    /// All targets, all protocols; 10 seconds to answer.
    #[must_use]
    pub fn new(authority: impl Into<String>) -> Self {
        Self { authority: authority.into(), timeout: Duration::from_secs(10) }
    }
}

/// Opens the tunnel on a fresh connection, which it owns from then on: an error, or dropping the future, closes it.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(connection: quinn::Connection, request: ConnectRequest) -> Result<Session, ConnectError> {
    let link = Link::new(connection);
    let owner = Owner(Arc::clone(&link));
    match tokio::time::timeout(request.timeout, open(&link, &request.authority)).await {
        Ok(streams) => Ok(Session::start(owner, streams?)),
        Err(_) => {
            link.close(CloseReason::Local, Code::REQUEST_CANCELLED, "no answer in time");
            Err(ConnectError::TimedOut)
        }
    }
}

async fn open(link: &Arc<Link>, authority: &str) -> Result<Streams, ConnectError> {
    let mut peer = peer::follow(link, true);
    let settings = Settings {
        h3_datagram: true,
        enable_connect_protocol: false,
        max_field_section_size: Some(qpack::MAX_FIELD_SECTION_SIZE as u64),
    };
    let control = peer::open_control(link, &settings).await?;
    await_settings(link, &mut peer).await?;

    let (mut outbound, inbound) = link.connection.open_bi().await.map_err(|_| link.reason())?;
    let mut inbound = Inbound::new(inbound);
    let request = request::unlimited(authority);
    exchange::send_fields(&mut outbound, &request.to_fields()).await.map_err(|broken| broken.close(link))?;
    let response = await_response(link, &mut inbound, &mut peer, u64::from(outbound.id())).await?;
    if !response.status.is_success() {
        let reason = printable(&inbound.text(MAX_REASON).await);
        return Err(ConnectError::Refused { status: response.status, reason });
    }
    if !request::starts_capsules(&response) {
        let error = ProtocolError::new(Code::MESSAGE_ERROR, "answer does not start the capsule protocol");
        link.fail(&error);
        return Err(link.reason().into());
    }
    Ok(Streams { is_server: false, inbound, outbound, control, peer })
}

/// An extended CONNECT must not be sent before the server said that it takes one (RFC 9220 §3).
async fn await_settings(link: &Link, peer: &mut mpsc::Receiver<ControlEvent>) -> Result<(), ConnectError> {
    // SETTINGS comes first on the control stream, whatever else does.
    let Some(ControlEvent::Settings(settings)) = peer.recv().await else {
        return Err(link.closed().await.into());
    };
    let missing = match settings {
        Settings { enable_connect_protocol: false, .. } => "ENABLE_CONNECT_PROTOCOL",
        Settings { h3_datagram: false, .. } => "H3_DATAGRAM",
        _ => return Ok(()),
    };
    Err(ConnectError::Unsupported { missing })
}

async fn await_response(
    link: &Link,
    inbound: &mut Inbound,
    peer: &mut mpsc::Receiver<ControlEvent>,
    stream: u64,
) -> Result<Response, ConnectError> {
    loop {
        let fields = tokio::select! {
            fields = inbound.fields() => fields,
            event = peer.recv() => match event {
                // The server does not process requests from this id on (RFC 9114 §5.2).
                Some(ControlEvent::GoAway(id)) if id <= stream => {
                    let code = Code::REQUEST_REJECTED;
                    return Err(ConnectError::Closed(CloseReason::Peer { code, reason: "going away".into() }));
                }
                Some(_) => continue,
                None => return Err(link.closed().await.into()),
            },
        };
        let response =
            fields.and_then(|fields| Ok(Response::from_fields(fields)?)).map_err(|broken| broken.close(link))?;
        if !response.status.is_informational() {
            return Ok(response);
        }
        inbound.expect_fields();
    }
}

/// Why there is no tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The gateway answered, and not with success. 401 and 403: this device is not let in.
    #[error("the gateway refused: {status} {reason}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its words, empty if it gave none.
        reason: String,
    },
    /// The server at this address speaks HTTP/3 but not CONNECT-IP.
    #[error("the server does not offer IP tunnels: {missing} is missing from its settings")]
    Unsupported {
        /// The setting.
        missing: &'static str,
    },
    /// No answer in time.
    #[error("the gateway did not answer in time")]
    TimedOut,
    /// The connection ended before the answer.
    #[error("{0}")]
    Closed(#[from] CloseReason),
}
