//! A device's session, from its first packet to its end.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::StatusCode;
use ipnet::IpNet;
use m2m_tunnel::capsule::{AssignedAddress, RequestedAddress};
use m2m_tunnel::http3::Code;
use m2m_tunnel::packet::Header;
use m2m_tunnel::packet::icmp::{self, Cause, RateLimit};
use m2m_tunnel::routes::IpRange;
use m2m_tunnel::server;
use m2m_tunnel::session::{CloseReason, Control, Event, Packets};
use m2m_tunnel::tun::TunWriter;
use rustls_pki_types::CertificateDer;

use crate::admission::Handshake;
use crate::device_certificate::DeviceCertificate;
use crate::gateway::Gateway;
use crate::metrics::{ConnectionOutcome, DeviceCounters};
use crate::policy::Refusal;
use crate::pool::Addresses;

/// What the gateway keeps of a session, for whoever has packets for it or wants to close it.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whose it is.
    pub(crate) certificate: DeviceCertificate,
    /// The device's addresses.
    pub(crate) addresses: Addresses,
    /// Where packets to the device go.
    pub(crate) packets: Packets,
    /// The device's counters.
    pub(crate) counters: DeviceCounters,
    /// When it began.
    pub(crate) since: SystemTime,
    control: Control,
    connection: quinn::Connection,
    replies: Mutex<RateLimit>,
}

impl Session {
    /// Closes it and tells the device why.
    pub(crate) fn close(&self, end: End) {
        self.control.close(end.code(), end.reason());
    }

    /// Tells the device to go elsewhere; does not wait for it.
    pub(crate) async fn go_away(&self) {
        // One that is gone already needs no telling.
        let _ = self.control.go_away().await;
    }

    /// Where the device is now; changes when it moves.
    pub(crate) fn remote(&self) -> SocketAddr {
        self.connection.remote_address()
    }

    /// Whether another ICMP message on behalf of this session may be sent now.
    pub(crate) fn may_reply(&self) -> bool {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now())
    }
}

/// Why the gateway ends a session. The codes are those of HTTP/3 (RFC 9114 section 8.1) where one says it, others of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The certificate has been revoked: coming back is of no use.
    Revoked,
    /// The device has opened another session.
    Replaced,
    /// The gateway stops: come back later, or elsewhere.
    Stopping,
}

impl End {
    /// What the device sees as the error code of the connection.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::Revoked => Code(0x6d3201),
            Self::Replaced => Code(0x6d3202),
            Self::Stopping => Code::NO_ERROR,
        }
    }

    /// What the device sees as the reason.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "the device's certificate has been revoked",
            Self::Replaced => "replaced by a newer session of this device",
            Self::Stopping => "the gateway is stopping",
        }
    }
}

/// Serves a connection whose handshake has just begun, until its end.
pub(crate) async fn serve(gateway: Arc<Gateway>, connecting: quinn::Connecting, handshake: Handshake) {
    let remote = connecting.remote_address();
    let admitted = match tokio::time::timeout(HANDSHAKE_TIMEOUT, admit(&gateway, connecting)).await {
        Ok(Ok(admitted)) => admitted,
        Ok(Err(refused)) => {
            log::info!("{remote}: {}", refused.reason);
            gateway.metrics.connection(refused.outcome);
            return;
        }
        Err(_) => {
            log::info!("{remote}: no tunnel after {} s", HANDSHAKE_TIMEOUT.as_secs());
            gateway.metrics.connection(ConnectionOutcome::TimedOut);
            return;
        }
    };
    drop(handshake);
    gateway.metrics.connection(ConnectionOutcome::Accepted);

    let Admitted { tunnel, session } = admitted;
    let device = session.certificate.device.clone();
    let reason = run(&gateway, tunnel, &session).await;
    gateway.leave(&session);
    log::info!("{device}: session ended after {} s: {reason}", session.since.elapsed().unwrap_or_default().as_secs());
}

/// The whole of it: QUIC, TLS, the request, addresses.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a replaced session still takes what is on its way.
const REPLACED_GRACE: Duration = Duration::from_secs(2);

struct Admitted {
    tunnel: m2m_tunnel::session::Session,
    session: Arc<Session>,
}

struct Refused {
    outcome: ConnectionOutcome,
    reason: String,
}

impl Refused {
    fn new(outcome: ConnectionOutcome, reason: impl ToString) -> Self {
        Self { outcome, reason: reason.to_string() }
    }
}

async fn admit(gateway: &Arc<Gateway>, connecting: quinn::Connecting) -> Result<Admitted, Refused> {
    let connection = connecting
        .await
        .map_err(|error| Refused::new(ConnectionOutcome::HandshakeFailed, format!("handshake: {error}")))?;
    let certificate = peer_certificate(&connection);
    let request =
        server::accept(connection.clone()).await.map_err(|error| Refused::new(ConnectionOutcome::BadRequest, error))?;
    let certificate = match certificate {
        Ok(certificate) => certificate,
        Err(reason) => {
            request.reject(StatusCode::FORBIDDEN, &reason).await;
            return Err(Refused::new(ConnectionOutcome::NotADevice, reason));
        }
    };
    // The list may have been replaced since TLS looked at it.
    if gateway.is_revoked(&certificate) {
        request.reject(StatusCode::FORBIDDEN, End::Revoked.reason()).await;
        return Err(Refused::new(ConnectionOutcome::HandshakeFailed, format!("{}: revoked", certificate.device)));
    }
    let addresses = match gateway.addresses_for(&certificate.device).await {
        Ok(addresses) => addresses,
        Err(reason) => {
            request.reject(StatusCode::SERVICE_UNAVAILABLE, &reason).await;
            return Err(Refused::new(ConnectionOutcome::NoRoom, format!("{}: {reason}", certificate.device)));
        }
    };

    let tunnel = request.accept().await.map_err(|error| Refused::new(ConnectionOutcome::BadRequest, error))?;
    let control = tunnel.control();
    let gone = |reason: CloseReason| Refused::new(ConnectionOutcome::BadRequest, reason);
    control.assign_addresses(assignments(&addresses)).await.map_err(gone)?;
    let routes = gateway.policy.advertised().into_iter().map(IpRange::from_prefix).collect();
    control.advertise_routes(routes).await.map_err(gone)?;

    let session = Arc::new(Session {
        addresses,
        packets: tunnel.packets(),
        counters: gateway.metrics.device(&certificate.device),
        since: SystemTime::now(),
        control,
        connection,
        replies: Mutex::new(RateLimit::new(20, Instant::now())),
        certificate,
    });
    let device = &session.certificate.device;
    match gateway.join(&session) {
        Ok(None) => log::info!("{device}: connected from {}, addresses {addresses}", session.remote()),
        Ok(Some(former)) => {
            log::info!("{device}: moved from {} to {}", former.remote(), session.remote());
            retire(former);
        }
        Err(full) => {
            session.control.close(Code::EXCESSIVE_LOAD, &full.to_string());
            return Err(Refused::new(ConnectionOutcome::NoRoom, format!("{device}: {full}")));
        }
    }
    // A list that came between the look above and joining did not see this session.
    if gateway.is_revoked(&session.certificate) {
        session.close(End::Revoked);
    }
    Ok(Admitted { tunnel, session })
}

fn peer_certificate(connection: &quinn::Connection) -> Result<DeviceCertificate, String> {
    let chain =
        connection.peer_identity().and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let leaf = chain.as_ref().and_then(|chain| chain.first()).ok_or("no client certificate")?;
    DeviceCertificate::read(leaf).map_err(|error| error.to_string())
}

/// The new session carries everything already; what the device sent over the old one arrives still.
fn retire(former: Arc<Session>) {
    tokio::spawn(async move {
        tokio::time::sleep(REPLACED_GRACE).await;
        former.close(End::Replaced);
    });
}

async fn run(gateway: &Gateway, mut tunnel: m2m_tunnel::session::Session, session: &Session) -> CloseReason {
    let packets = tunnel.packets();
    let mut writer = gateway.tun.writer();
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            received = packets.recv_batch(&mut batch) => {
                if let Err(reason) = received {
                    return reason;
                }
                forward(gateway, session, &mut batch, &mut writer).await;
            }
            event = tunnel.next_event() => match event {
                Event::Closed(reason) => return reason,
                Event::AddressesRequested(requests) => {
                    let answer = answers(&session.addresses, &requests);
                    if let Err(reason) = session.control.assign_addresses(answer).await {
                        return reason;
                    }
                }
                // A device neither assigns addresses to the gateway nor routes for it.
                _ => {}
            },
        }
    }
}

/// Hands the device's packets to the kernel, which forwards them and counts down their hop limit as every router does.
async fn forward(gateway: &Gateway, session: &Session, batch: &mut Vec<Bytes>, writer: &mut TunWriter) {
    let mut pushed = 0;
    for packet in batch.drain(..) {
        let Some(Header { source, destination, .. }) = Header::parse(&packet) else {
            session.counters.malformed();
            continue;
        };
        if let Err(refusal) = gateway.policy.check(&session.addresses, source, destination) {
            session.counters.refused(refusal);
            // Nobody answers to a forged source.
            if refusal != Refusal::Spoofed && session.may_reply() {
                let answer = icmp::error(&packet, Cause::Prohibited, destination);
                answer.iter().for_each(|answer| drop(session.packets.send(answer)));
            }
            continue;
        }
        writer.push(&packet);
        pushed += 1;
        session.counters.received(packet.len());
    }
    if pushed > 0
        && let Err(error) = writer.flush().await
    {
        session.counters.not_taken(pushed);
        log::debug!("{}: the tunnel interface took no packets: {error}", session.certificate.device);
    }
}

fn assignments(addresses: &Addresses) -> Vec<AssignedAddress> {
    addresses.iter().map(|address| AssignedAddress::unrequested(IpNet::from(address))).collect()
}

/// Whatever is asked for, the device has its own addresses; a request gets the one of its family, or a refusal.
fn answers(addresses: &Addresses, requests: &[RequestedAddress]) -> Vec<AssignedAddress> {
    let mut answers = assignments(addresses);
    for request in requests {
        let same_family = |answer: &&mut AssignedAddress| {
            answer.request_id == 0 && answer.prefix.addr().is_ipv4() == request.prefix.addr().is_ipv4()
        };
        match answers.iter_mut().find(same_family) {
            Some(answer) => answer.request_id = request.request_id,
            None => answers.push(AssignedAddress { request_id: request.request_id, prefix: refusal(request) }),
        }
    }
    answers
}

/// RFC 9484 section 4.7.1: the unspecified address with the full prefix length.
fn refusal(request: &RequestedAddress) -> IpNet {
    match request.prefix {
        IpNet::V4(_) => IpNet::from(std::net::IpAddr::from([0; 4])),
        IpNet::V6(_) => IpNet::from(std::net::IpAddr::from([0; 16])),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_gets_the_devices_address_of_its_family() {
        let addresses = Addresses { ipv4: "10.99.0.2".parse().ok(), ipv6: None };
        let request = |request_id, prefix: &str| RequestedAddress { request_id, prefix: prefix.parse().unwrap() };
        let answer = |request_id, prefix: &str| AssignedAddress { request_id, prefix: prefix.parse().unwrap() };
        assert_eq!(answers(&addresses, &[]), [answer(0, "10.99.0.2/32")]);
        assert_eq!(
            answers(&addresses, &[request(1, "::/128"), request(2, "0.0.0.0/32"), request(3, "10.0.0.1/32")]),
            [answer(2, "10.99.0.2/32"), answer(1, "::/128"), answer(3, "0.0.0.0/32")]
        );
    }
}
