//! Devices that come over TCP, because UDP does not reach the gateway: a task for each.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use log::Level;
use m2m_tunnel::http2::tcp::ShortQueue;
use m2m_tunnel::http2::{self, Incoming as Asked};
use m2m_tunnel::lane::{Incoming, Lane};
use m2m_tunnel::session::{CloseReason, Event};
use m2m_tunnel::template::Matcher;
use m2m_tunnel::tun::TunQueue;
use rustls_pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::admission::{Displaced, Handshake};
use crate::admit::{Applicant, Refusal, admit};
use crate::gateway::{Gateway, NO_LIST};
use crate::metrics::ConnectionOutcome;
use crate::passage::{Passed, pass};
use crate::session::{self, End, Session, Way};

/// TLS and the request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// While no connection can be taken: too many files are open.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be taken.
const BACKLOG: i32 = 1024;

/// Listens on TCP.
///
/// # Errors
/// The kernel's.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Takes connections for as long as the gateway runs.
pub(crate) async fn run(gateway: Arc<Gateway>, listener: TcpListener, tls: TlsAcceptor) -> io::Error {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                log::debug!("no connection taken: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if !gateway.takes_connections() {
            continue;
        }
        if !gateway.admits_devices() {
            gateway.note_stranger(Level::Warn, &remote, &NO_LIST);
            gateway.metrics.connection(ConnectionOutcome::RefusedNoRevocationList);
            continue;
        }
        // Who completes the handshake of TCP has proved its address.
        match gateway.stream_admission.displace(remote.ip()) {
            Some(place) => drop(tokio::spawn(serve(Arc::clone(&gateway), stream, remote, tls.clone(), place))),
            None => gateway.metrics.connection(ConnectionOutcome::RefusedBusy),
        }
    }
}

async fn serve(
    gateway: Arc<Gateway>,
    stream: TcpStream,
    remote: SocketAddr,
    tls: TlsAcceptor,
    (handshake, displaced): (Handshake, Displaced),
) {
    let asked = tokio::select! {
        asked = timeout(HANDSHAKE_TIMEOUT, greet(stream, &tls, gateway.matcher())) => asked,
        Ok(()) = displaced => return gateway.metrics.connection(ConnectionOutcome::RefusedBusy),
    };
    let asked = match asked {
        Ok(Ok(asked)) => asked,
        Ok(Err((outcome, reason))) => {
            gateway.note_stranger(Level::Info, &remote, &reason);
            return gateway.metrics.connection(outcome);
        }
        Err(_) => {
            let late = format_args!("no tunnel after {} s", HANDSHAKE_TIMEOUT.as_secs());
            gateway.note_stranger(Level::Info, &remote, &late);
            return gateway.metrics.connection(ConnectionOutcome::TimedOut);
        }
    };
    let (chain, asked) = asked;
    let admitted = match admit(&gateway, Applicant { chain, remote, scope: asked.scope().clone() }).await {
        Ok(admitted) => admitted,
        Err(Refusal { outcome, answer, device }) => {
            log::info!("{}: refused: {answer}", device.unwrap_or_else(|| remote.to_string()));
            asked.reject(&answer).await;
            return gateway.metrics.connection(outcome);
        }
    };
    let tunnel = match asked.accept().await {
        Ok(tunnel) => tunnel,
        Err(error) => {
            log::info!("{remote}: {error}");
            return gateway.metrics.connection(ConnectionOutcome::BadRequest);
        }
    };
    drop(handshake);
    let (lane, incoming) = Lane::start(tunnel);
    let session = Arc::new(Session::new(admitted, Way::Stream(lane.clone()), remote));
    let Some(queue) = gateway.queue() else { return };
    let reason = match carry(&gateway, &session, &lane, incoming, queue).await {
        Ok(reason) | Err(reason) => reason,
    };
    gateway.ended(&session, &reason);
}

type Failed = (ConnectionOutcome, String);

async fn greet(
    stream: TcpStream,
    tls: &TlsAcceptor,
    matcher: Arc<Matcher>,
) -> Result<(Vec<CertificateDer<'static>>, Asked), Failed> {
    let failed = |error: &dyn std::fmt::Display| (ConnectionOutcome::HandshakeFailed, format!("handshake: {error}"));
    let stream = ShortQueue::new(stream).map_err(|error| failed(&error))?;
    let stream = tls.accept(stream).await.map_err(|error| failed(&error))?;
    let (_, connection) = stream.get_ref();
    let chain = connection.peer_certificates().unwrap_or_default().iter().map(|one| one.clone().into_owned()).collect();
    let asked =
        http2::accept(stream, matcher).await.map_err(|error| (ConnectionOutcome::BadRequest, error.to_string()))?;
    Ok((chain, asked))
}

async fn carry(
    gateway: &Gateway,
    session: &Arc<Session>,
    lane: &Lane,
    mut incoming: mpsc::Receiver<Incoming>,
    mut queue: TunQueue,
) -> Result<CloseReason, CloseReason> {
    let control = lane.control();
    control.assign_addresses(session::assignments(&session.addresses))?;
    control.advertise_routes(session.routes(&gateway.policy))?;
    if let Err(full) = gateway.join(session) {
        control.close(m2m_tunnel::http3::Code::EXCESSIVE_LOAD, &full.to_string());
        gateway.metrics.connection(ConnectionOutcome::NoRoom);
        return Ok(CloseReason::Local);
    }
    gateway.metrics.connection(ConnectionOutcome::Accepted);
    // A list that came between the look before and joining did not see this session.
    if gateway.is_revoked(&session.certificate) {
        session.close(End::Revoked);
    }
    let mut passing: Vec<Bytes> = Vec::new();
    while let Some(next) = incoming.recv().await {
        let packets = match next {
            Incoming::Packets(packets) => packets,
            Incoming::Event(Event::AddressesRequested(_)) if !session.may_ask(Instant::now()) => {
                session.close(End::Insistent);
                continue;
            }
            Incoming::Event(Event::AddressesRequested(requests)) => {
                control.assign_addresses(session::answers(&session.addresses, &requests))?;
                if session::claims(&session.addresses, &requests) {
                    gateway.make_current(session);
                }
                continue;
            }
            Incoming::Event(Event::Closed(reason)) => return Ok(reason),
            // A device neither assigns addresses to the gateway nor routes for it.
            Incoming::Event(_) => continue,
        };
        let now = Instant::now();
        for packet in packets {
            match pass(gateway, session, packet, now) {
                Passed::On(packet) => passing.push(packet),
                Passed::Answered(answer) => lane.send(answer, now),
                Passed::Dropped => {}
            }
        }
        match queue.try_write_batch(passing.drain(..)) {
            Ok(report) => gateway.metrics.not_taken(report.dropped),
            Err(error) => return Err(CloseReason::Transport(error.to_string())),
        }
    }
    Ok(CloseReason::Ended)
}
