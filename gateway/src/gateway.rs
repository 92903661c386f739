//! The parts of the gateway, put together: started, run and stopped.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU16;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, bail};
use m2m_identity::chain;
use m2m_identity::tls::{self, ClientAuthentication, ClientVerifier, Identity, ServerTls, TrustAnchors};
use m2m_protocol::names::Token;
use m2m_tunnel::http2;
use m2m_tunnel::hub::{Hub, Service};
use m2m_tunnel::packet::icmp::RateLimit;
use m2m_tunnel::quic;
use m2m_tunnel::session::CloseReason;
use m2m_tunnel::template::Matcher;
use m2m_tunnel::tun::{Tun, TunConfig, TunQueue};
use m2m_tunnel::udp::UdpSocket;
use rustls_pki_types::CertificateDer;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::address_book::AddressBook;
use crate::admission::{Admission, Limits};
use crate::config::{self, Config};
use crate::crl_source::Source;
use crate::device_certificate::DeviceCertificate;
use crate::metrics::Metrics;
use crate::policy::Policy;
use crate::pool::Addresses;
use crate::revocation::Issuers;
use crate::revocation_keeper::RevocationKeeper;
use crate::route_injection::{self, RouteInjection};
use crate::session::{End, Session};
use crate::signals::{Signal, Signals};
use crate::table::{Full, Table};
use crate::worker::{self, Order, WorkerHandle};
use crate::{interface, status_page, steering, stream};

/// The files that a configuration names, read and checked.
pub(crate) struct Prepared {
    tls: rustls::ServerConfig,
    /// For TCP.
    stream_tls: Arc<rustls::ServerConfig>,
    book: AddressBook,
    revocation: Option<RevocationKeeper>,
}

/// Reads everything that `config` names, and makes `state_dir` if it is not there.
///
/// # Errors
/// Names the file and what is wrong with it.
pub(crate) fn prepare(config: &Config) -> anyhow::Result<Prepared> {
    let identity = read_identity(&config.identity)?;
    let client_cas = read_certificates(&config.client_ca)?;
    let anchors = TrustAnchors::new(&roots(&client_cas)).with_context(|| config.client_ca.display().to_string())?;
    let verifier = Arc::new(ClientVerifier::new(anchors, &[])?);
    let tls_for = |alpn: &[u8]| {
        tls::server_config(ServerTls {
            identity: &identity,
            clients: ClientAuthentication::Required(Arc::clone(&verifier)),
            alpn: &[alpn],
        })
    };
    let tls = tls_for(quic::ALPN)?;
    let stream_tls = Arc::new(tls_for(http2::ALPN)?);

    std::fs::create_dir_all(&config.state_dir).with_context(|| config.state_dir.display().to_string())?;
    let book = AddressBook::open(&config.state_dir, &config.pool)?;
    let revocation = match &config.crl {
        None => None,
        Some(crl) => {
            let source = Source::new(crl, &config.client_ca)?;
            let issuers = Issuers::new(&client_cas, identity.chain().get(1..).unwrap_or_default());
            Some(RevocationKeeper::new(crl.clone(), source, issuers, verifier, &config.state_dir))
        }
    };
    Ok(Prepared { tls, stream_tls, book, revocation })
}

/// What every session and every task of the gateway uses.
pub(crate) struct Gateway {
    /// What devices may send.
    pub(crate) policy: Policy,
    /// Where tunnels are asked for.
    matcher: Arc<Matcher>,
    /// What is counted.
    pub(crate) metrics: Metrics,
    /// Who may begin a handshake over UDP.
    pub(crate) admission: Admission,
    /// Who may begin one over TCP: connections that go nowhere there do not close the other way.
    pub(crate) stream_admission: Admission,
    is_stopping: AtomicBool,
    notes: Mutex<RateLimit>,
    tun: Tun,
    ranges: config::Ranges,
    book: AddressBook,
    routes: Arc<RouteInjection>,
    table: RwLock<Table<Session>>,
    revocation: Option<RevocationKeeper>,
}

/// Runs the gateway until it is told to stop.
///
/// # Errors
/// When it cannot start, or its interface or a socket is gone.
pub(crate) async fn run(config: Config, prepared: Prepared) -> anyhow::Result<()> {
    let Prepared { tls, stream_tls, book, revocation } = prepared;
    let mut signals = Signals::new()?;

    let workers = config.workers();
    let matcher = Arc::new(config.uri_template.0.clone());
    let hubs = listen(&config, tls, &matcher, workers)?;
    let listeners: Vec<TcpListener> = config
        .listen
        .iter()
        .map(|address| stream::listen(*address).with_context(|| format!("listen: {address} (TCP)")))
        .collect::<Result<_, _>>()?;
    let name = config.tun.name.as_str().to_owned();
    let tun = Tun::open(&TunConfig { name, mtu: config.tun.mtu.0, queues: workers })?;
    let own = book.gateway();
    let ranges = config.pool.ranges;
    let routes = Arc::new(RouteInjection::new(config.routing.inject, ranges, tun.index()));
    interface::configure(tun.index(), &routes.interface_addresses(&own), config.tun.mtu.0).await?;
    interface::warn_without_forwarding(&ranges);
    let status_listener = TcpListener::bind(config.metrics.listen.0)
        .await
        .with_context(|| format!("metrics.listen: {}", config.metrics.listen.0))?;

    let limits = Limits {
        max: config.limits.max_handshakes.0,
        max_per_source: config.limits.max_handshakes_per_source.0,
        retry_above: config.limits.retry_above,
    };
    let gateway = Arc::new(Gateway {
        policy: Policy::new(config.routes.iter().map(|route| route.0).collect(), ranges, own),
        matcher,
        metrics: Metrics::new(book.usage().1),
        is_stopping: AtomicBool::new(false),
        notes: Mutex::new(RateLimit::new(NOTES, Instant::now())),
        tun: tun.clone(),
        ranges,
        book,
        routes,
        table: RwLock::new(Table::new(config.limits.max_sessions.0 as usize)),
        revocation,
        admission: Admission::new(limits),
        stream_admission: Admission::new(limits),
    });
    gateway.read_first_list().await;

    let mut tasks = JoinSet::new();
    tasks.spawn(status_page::serve(status_listener, Arc::clone(&gateway)));
    tasks.spawn(route_injection::run(Arc::clone(&gateway.routes)));
    for listener in listeners {
        tasks.spawn(stream::run(Arc::clone(&gateway), listener, TlsAcceptor::from(Arc::clone(&stream_tls))));
    }
    let mut workers = Vec::new();
    for ((number, hubs), queue) in hubs.into_iter().enumerate().zip(tun.queues()) {
        let (handle, orders) = WorkerHandle::new(number);
        workers.push(handle.clone());
        let work = worker::run(Arc::clone(&gateway), handle, orders, hubs, queue);
        tasks.spawn(async move { work.await.err().unwrap_or_else(|| io::Error::other("a worker has stopped")) });
    }
    let listening: Vec<_> = config.listen.iter().map(ToString::to_string).collect();
    log::info!("ready: {} on {}, addresses {own}", listening.join(", "), tun.name());
    notify(sd_notify::NotifyState::Ready);

    let outcome = loop {
        let pause = gateway.revocation.as_ref().map_or(FOR_EVER, |keeper| keeper.pause(SystemTime::now()));
        tokio::select! {
            signal = signals.next() => match signal {
                Signal::Reload => gateway.refresh_list().await,
                Signal::Stop => break Ok(()),
            },
            () = tokio::time::sleep(pause) => gateway.refresh_list().await,
            Some(ended) = tasks.join_next() => {
                let reason = ended.unwrap_or_else(io::Error::other);
                break Err(anyhow::Error::new(reason).context("a part of the gateway has ended"));
            }
        }
    };
    notify(sd_notify::NotifyState::Stopping);
    gateway.stop(&workers, &mut tasks).await;
    outcome
}

impl Gateway {
    /// The sessions; not to be held across an await.
    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table<Session>> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where tunnels are asked for.
    pub(crate) fn matcher(&self) -> Arc<Matcher> {
        Arc::clone(&self.matcher)
    }

    /// Whether `address` is one that a device has or may get.
    pub(crate) fn is_for_a_device(&self, address: IpAddr) -> bool {
        self.ranges.contains(address) && !self.policy.gateway().contains(address)
    }

    /// The addresses of `device`.
    ///
    /// # Errors
    /// Why it gets none, in words for the device.
    pub(crate) async fn addresses_for(&self, device: &Token) -> Result<Addresses, String> {
        if self.table().is_full_for(device) {
            return Err("the gateway is full".to_owned());
        }
        self.book.assign(device).await.map_err(|error| {
            log::error!("{device}: {error}");
            "the gateway has no address for this device".to_owned()
        })
    }

    /// The session takes part from now on.
    ///
    /// # Errors
    /// When there is no room.
    pub(crate) fn join(&self, session: &Arc<Session>) -> Result<(), Full> {
        let device = &session.certificate.device;
        let inserted = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            let inserted = table.insert(device, session.addresses, Arc::clone(session))?;
            if inserted.is_current {
                self.routes.joined(&session.addresses, None, session.since);
            }
            inserted
        };
        if let Some(evicted) = inserted.evicted {
            evicted.close(End::Replaced);
        }
        let (from, addresses) = (session.remote(), session.addresses);
        if inserted.is_current {
            session.is_current_now();
            log::info!("{device}: connected from {from}, addresses {addresses}");
        } else {
            log::info!("{device}: connected from {from}, too");
        }
        Ok(())
    }

    /// The device says that its packets go to this session from now on.
    pub(crate) fn make_current(&self, session: &Arc<Session>) {
        session.is_current_now();
        let device = &session.certificate.device;
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = table.make_current(device, session) {
            log::info!("{device}: moved from {} to {}", former.remote(), session.remote());
        }
        self.routes.joined(&session.addresses, None, SystemTime::now());
    }

    /// A session is over, for this reason.
    pub(crate) fn ended(&self, session: &Arc<Session>, reason: &CloseReason) {
        self.leave(session);
        let seconds = session.since.elapsed().unwrap_or_default().as_secs();
        log::info!("{}: session ended after {seconds} s: {reason}", session.certificate.device);
    }

    /// Whether the gateway is not about to stop.
    pub(crate) fn takes_connections(&self) -> bool {
        !self.is_stopping.load(Ordering::Relaxed)
    }

    /// A way to the interface, for packets of devices.
    pub(crate) fn queue(&self) -> Option<TunQueue> {
        self.tun.queues().into_iter().next()
    }

    /// The session is over.
    fn leave(&self, session: &Arc<Session>) {
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        let was_last = |table: &Table<Session>| session.addresses.iter().all(|it| table.session_of(it).is_none());
        if table.remove(&session.certificate.device, session) && was_last(&table) {
            self.routes.left(&session.addresses);
        }
    }

    /// Logs what became of somebody who came no further than the handshake. In a flood of them most go unsaid; the metrics count all.
    pub(crate) fn note_stranger(&self, level: log::Level, who: &dyn Display, what: &dyn Display) {
        if self.notes.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            log::log!(level, "{who}: {what}");
        }
    }

    /// Whether the revocation list in use names `certificate`.
    pub(crate) fn is_revoked(&self, certificate: &DeviceCertificate) -> bool {
        self.revocation.as_ref().is_some_and(|keeper| keeper.is_revoked(certificate))
    }

    /// Brings those metrics up to date that are not counted as things happen.
    pub(crate) fn update_gauges(&self) {
        let gauge = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.sessions.set(gauge(self.table().devices()));
        let handshakes = self.admission.under_way() + self.stream_admission.under_way();
        self.metrics.handshakes_under_way.set(handshakes.into());
        self.metrics.addresses_assigned.set(gauge(self.book.usage().0));
        let Some(list) = self.revocation.as_ref().and_then(RevocationKeeper::current) else { return };
        let end = list.next_update().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.metrics.revocation_next_update.set(i64::try_from(end.as_secs()).unwrap_or(i64::MAX));
        self.metrics.revoked_certificates.set(gauge(list.len()));
    }

    /// Whether devices may come in: not without a revocation list, where there has to be one.
    pub(crate) fn admits_devices(&self) -> bool {
        self.revocation.as_ref().is_none_or(|keeper| keeper.admits(SystemTime::now()))
    }

    /// Waits for a list only if no device could come in without it.
    async fn read_first_list(&self) {
        let Some(keeper) = &self.revocation else {
            log::info!("without a revocation list: no certificate counts as revoked");
            return;
        };
        if !keeper.admits(SystemTime::now()) || keeper.current().is_none() {
            self.refresh_list().await;
        }
    }

    /// Reads the revocation list again and closes the sessions of those that it names.
    async fn refresh_list(&self) {
        let Some(keeper) = &self.revocation else { return };
        let outcome = keeper.refresh().await;
        self.metrics.revocation_refresh(outcome.is_ok());
        if let Err(error) = outcome {
            let consequence = match (keeper.admits(SystemTime::now()), keeper.current()) {
                (false, _) => "devices are refused until there is a good one",
                (true, Some(_)) => "the former one stays in use",
                (true, None) => "no certificate counts as revoked",
            };
            log::error!("revocation list: {error:#}; {consequence}");
        }
        let revoked: Vec<_> =
            self.table().sessions().filter(|session| keeper.is_revoked(&session.certificate)).map(Arc::clone).collect();
        for session in revoked {
            log::warn!("{}: certificate revoked, session closed", session.certificate.device);
            session.close(End::Revoked);
            self.leave(&session);
        }
    }

    /// Tells every device to go elsewhere, gives them time to, closes the sessions that are left, and waits until the devices know.
    async fn stop(&self, workers: &[WorkerHandle], tasks: &mut JoinSet<io::Error>) {
        self.is_stopping.store(true, Ordering::Relaxed);
        workers.iter().for_each(|worker| worker.tell(Order::CloseDoor));
        let sessions: Vec<_> = self.table().sessions().map(Arc::clone).collect();
        log::info!("stopping: {} sessions", sessions.len());
        sessions.iter().for_each(Session::go_away);
        drop(sessions);
        let limit = Instant::now() + DRAIN;
        while self.table().len() > 0 && Instant::now() < limit {
            tokio::time::sleep(POLL).await;
        }
        let left: Vec<_> = self.table().sessions().map(Arc::clone).collect();
        left.iter().for_each(|session| session.close(End::Stopping));
        workers.iter().for_each(|worker| worker.tell(Order::Stop));
        // Those that listen have no end of their own.
        let farewell = async {
            while self.table().len() > 0 {
                tokio::time::sleep(POLL).await
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
        tokio::time::sleep(LAST_WORDS).await;
        tasks.abort_all();
    }
}

/// How long devices may take to move to another gateway.
const DRAIN: Duration = Duration::from_secs(5);
/// How often it is looked whether they have.
const POLL: Duration = Duration::from_millis(20);
/// How long what is said last may take to leave the machine.
const LAST_WORDS: Duration = Duration::from_millis(50);
/// How long the last words may take.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why nobody gets in without a revocation list.
pub(crate) const NO_LIST: &str = "refused: no revocation list, or it is too old";

/// Lines about strangers a second in the log.
const NOTES: u32 = 20;

const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// For each worker, a hub for each address.
fn listen(
    config: &Config,
    tls: rustls::ServerConfig,
    matcher: &Arc<Matcher>,
    workers: NonZeroU16,
) -> anyhow::Result<Vec<Vec<Hub>>> {
    let server = quic::server_config(Arc::new(tls), quic::server_transport(config.limits.idle_s.duration()))?;
    let mut hubs: Vec<Vec<Hub>> = (0..workers.get()).map(|_| Vec::new()).collect();
    for address in &config.listen {
        let because = || format!("listen: {address}");
        for (number, hubs) in (0..).zip(&mut hubs) {
            let socket = udp_socket(*address).with_context(because)?;
            if number == 0 && workers.get() > 1 {
                steering::steer(&socket, workers).with_context(because)?;
            }
            let socket = UdpSocket::new(socket).with_context(because)?;
            let service = Service { config: server.clone(), matcher: Arc::clone(matcher) };
            hubs.push(Hub::new(socket, steering::endpoint_config(number, workers), Some(service)));
        }
    }
    Ok(hubs)
}

fn udp_socket(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_port(true)?;
    // As much as the kernel allows; it takes what it may and says nothing.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.bind(&address.into())?;
    Ok(socket.into())
}

const SOCKET_BUFFER: usize = 8 << 20;

fn read_identity(files: &config::Identity) -> anyhow::Result<Identity> {
    let chain = read_certificates(&files.certificate)?;
    let pem =
        zeroize::Zeroizing::new(std::fs::read_to_string(&files.key).with_context(|| files.key.display().to_string())?);
    let key = chain::private_key(&pem, None).with_context(|| files.key.display().to_string())?;
    Identity::new(chain, key).with_context(|| format!("{} and {}", files.certificate.display(), files.key.display()))
}

fn read_certificates(file: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(file).with_context(|| file.display().to_string())?;
    let certificates = chain::certificates(&bytes).with_context(|| file.display().to_string())?;
    if certificates.is_empty() {
        bail!("{}: no certificate", file.display());
    }
    Ok(certificates)
}

/// Of `certificates` those that devices' chains must end in: the self-signed ones, or all if none is. An issuing CA beside
/// its root is no anchor of its own, so that it ends when its certificate does.
fn roots(certificates: &[CertificateDer<'static>]) -> Vec<CertificateDer<'static>> {
    let is_root = |certificate: &&CertificateDer<'static>| {
        x509_parser::parse_x509_certificate(certificate)
            .is_ok_and(|(_, parsed)| parsed.subject().as_raw() == parsed.issuer().as_raw())
    };
    let roots: Vec<_> = certificates.iter().filter(is_root).cloned().collect();
    if roots.is_empty() { certificates.to_vec() } else { roots }
}

/// Tells systemd, if it started this program.
fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        log::debug!("sd_notify: {error}");
    }
}
