//! One TLS connection.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use super::crowd::{Crowd, Place};
use crate::http::{Network, Peer};

/// A device signs in its TPM, which may be busy with something slower.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// From the end of one request to the head of the next: a slow TPM needs a minute for its answer to a challenge.
const HEADER_TIMEOUT: Duration = Duration::from_secs(120);
/// Longer than any request takes; nobody keeps a connection for ever.
const LONGEST: Duration = Duration::from_secs(300);
/// After an error such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Connections {
    pub(super) router: Router,
    pub(super) tls: watch::Receiver<Arc<ServerConfig>>,
    pub(super) slots: Arc<Semaphore>,
    pub(super) crowd: Arc<Crowd>,
    pub(super) stopped: watch::Receiver<bool>,
}

impl Connections {
    /// Accepts connections for ever, and serves as many at a time as there are slots; others wait in the kernel's queue.
    pub(super) async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    let address = peer.ip().to_canonical();
                    let Some(place) = self.crowd.admit(Network::from(address)) else {
                        log::warn!("{address}: closed, as its network has too many connections");
                        continue;
                    };
                    let Ok(slot) = Arc::clone(&self.slots).acquire_owned().await else { return };
                    tokio::spawn(Arc::clone(&self).serve(stream, address, (slot, place)));
                }
                Err(error) => {
                    log::warn!("a connection could not be accepted: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Waits until all of the `slots` are free.
    pub(super) async fn all_closed(&self, slots: NonZeroU16) {
        // The semaphore is never closed.
        let _ = self.slots.acquire_many(u32::from(slots.get())).await;
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, address: IpAddr, room: (OwnedSemaphorePermit, Place)) {
        let acceptor = TlsAcceptor::from(Arc::clone(&self.tls.borrow()));
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return log::info!("{address}: no TLS connection: {error}"),
            Err(_) => return log::info!("{address}: no TLS connection: the handshake took too long"),
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).cloned();
        let peer = Peer { address, certificate: certificate.map(rustls_pki_types::CertificateDer::into_owned) };

        let router = TowerToHyperService::new(self.router.clone());
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            hyper::service::Service::call(&router, request)
        });
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .serve_connection(TokioIo::new(stream), service)
        );
        let mut stopped = self.stopped.clone();
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = until_true(&mut stopped) => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = tokio::time::sleep(LONGEST) => Ok(()),
        };
        if let Err(error) = result {
            log::debug!("{address}: the connection ended: {error}");
        }
        drop(room);
    }
}

async fn until_true(value: &mut watch::Receiver<bool>) {
    // An error says that the sender is gone, and so is the server.
    let _ = value.wait_for(|value| *value).await;
}
