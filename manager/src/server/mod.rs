//! The server: TLS connections in, requests to the router, and what has to be done from time to time.

mod connection;
mod crowd;
mod identity;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use m2m_identity::tls::{ClientAuthentication, ClientVerifier, ServerTls, TrustAnchors, server_config};
use rustls::ServerConfig;
use socket2::{Domain, Protocol, Socket, Type};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::config::Lifetimes;
use crate::fleet::Fleet;
use crate::http::{Service, router};
use connection::Connections;
use crowd::Crowd;

const ALPN: &[&[u8]] = &[b"http/1.1"];
const BACKLOG: i32 = 1024;
/// How often it is looked whether revocation list or server certificate are due, at least.
const CHORES: Duration = Duration::from_secs(60);
/// How long the requests that are under way may take when the server stops.
const FAREWELL: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn run(fleet: Fleet) -> anyhow::Result<()> {
    let fleet = Arc::new(fleet);
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;

    let mut own = identity::open(&fleet, OffsetDateTime::now_utc()).await?;
    let (tls, current_tls) = watch::channel(Arc::new(tls_config(&fleet, &own)?));
    let (stop, stopped) = watch::channel(false);
    let connections = Arc::new(Connections {
        router: router(Arc::new(Service::new(Arc::clone(&fleet)))),
        tls: current_tls,
        slots: Arc::new(Semaphore::new(fleet.config().limits.connections.get().into())),
        crowd: Crowd::of(fleet.config().limits.connections),
        stopped,
    });

    let mut acceptors = JoinSet::new();
    for listener in listen(&fleet.config().listen)? {
        acceptors.spawn(Arc::clone(&connections).accept(listener));
    }
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Ready]) {
        log::warn!("the service manager cannot be told that the manager is ready: {error}");
    }

    let mut chores = tokio::time::interval(chores_interval(fleet.config().lifetimes));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = chores.tick() => {
                let now = OffsetDateTime::now_utc();
                if let Err(error) = fleet.renew_revocation_list_if_due(now).await {
                    log::error!("the revocation list could not be renewed: {error:#}");
                }
                match identity::renewed_if_due(&fleet, &own, now).await {
                    Ok(None) => {}
                    Ok(Some(renewed)) => {
                        tls.send_replace(Arc::new(tls_config(&fleet, &renewed)?));
                        own = renewed;
                    }
                    Err(error) => log::error!("the server certificate could not be renewed: {error:#}"),
                }
            }
        }
    }

    log::info!("stopping");
    if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Stopping]) {
        log::debug!("the service manager cannot be told that the manager is stopping: {error}");
    }
    stop.send_replace(true);
    acceptors.shutdown().await;
    if tokio::time::timeout(FAREWELL, connections.all_closed(fleet.config().limits.connections)).await.is_err() {
        log::warn!("some requests were not finished within {} s", FAREWELL.as_secs());
    }
    fleet.store().close().await;
    Ok(())
}

/// Often enough for the shortest lifetime, of which a third is left when something is due.
fn chores_interval(lifetimes: Lifetimes) -> Duration {
    let shortest = lifetimes.crl.min(lifetimes.server).as_seconds();
    CHORES.min(Duration::from_secs(shortest.into()) / 6).max(Duration::from_millis(500))
}

/// Revocation is looked at for each request, in the database, and so takes effect at once.
fn tls_config(fleet: &Fleet, own: &identity::Own) -> anyhow::Result<ServerConfig> {
    let anchors = TrustAnchors::new(std::slice::from_ref(fleet.authority().root()))?;
    let verifier = ClientVerifier::new(anchors, &[])?;
    let clients = ClientAuthentication::Optional(Arc::new(verifier));
    Ok(server_config(ServerTls { identity: &own.identity, clients, alpn: ALPN })?)
}

fn listen(addresses: &[SocketAddr]) -> anyhow::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        match bind(*address) {
            Ok(listener) => {
                let bound = listener.local_addr().unwrap_or(*address);
                log::info!("listening on {bound}");
                listeners.push(listener);
            }
            // A machine without IPv6, or with IPv6 switched off.
            Err(error)
                if address.ip().is_unspecified()
                    && matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)) =>
            {
                log::warn!("listen: {address}: this machine does not have that address family");
            }
            Err(error) => return Err(error).with_context(|| format!("listen: {address}: cannot be listened on")),
        }
    }
    if listeners.is_empty() {
        bail!("listen: none of the addresses can be listened on");
    }
    Ok(listeners)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
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
