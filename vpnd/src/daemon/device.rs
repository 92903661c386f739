//! What the daemon's tasks share.

use std::net::IpAddr;
use std::num::NonZeroU16;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use m2m_identity::tls::{Identity, TrustAnchors};
use m2m_identity::tpm::Tpm;
use m2m_protocol::device_config::TunnelConfig;
use m2m_protocol::first_boot::FirstBoot;
use m2m_protocol::machine::Machine;
use m2m_tunnel::tun::{Tun, TunConfig, TunError};
use tokio::sync::watch;

use super::watched_key::WatchedKey;
use crate::api::{Board, Method};
use crate::certificate::{CertificateError, Summary};
use crate::clock::Clock;
use crate::config::{Config, DnsBackend, Own, Role};
use crate::enrol::Manager;
use crate::network::firewall::Firewall;
use crate::network::uplink_dns::UplinkDns;
use crate::network::{Applied, Network, NetworkError, Settings, dns};
use crate::store::Store;

/// An interface is never smaller than IPv6 asks (RFC 8200 section 5).
pub(super) const SMALLEST_MTU: u16 = 1280;

pub(super) struct Device {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) clock: Clock,
    pub(super) board: Arc<Board>,
    provision: Mutex<Option<Arc<Provision>>>,
    member: Mutex<Option<Arc<Member>>>,
    network: tokio::sync::Mutex<Option<Arc<Network>>>,
    interface: Mutex<Option<Arc<Tun>>>,
    uplinks: Arc<watch::Sender<()>>,
}

/// Who this machine is and where it is to enrol.
pub(super) struct Provision {
    pub(super) manager: Manager,
    pub(super) first_boot: FirstBoot,
    pub(super) machine: Machine,
    pub(super) tpm: Tpm,
}

/// What it takes to open a tunnel.
pub(super) struct Member {
    pub(super) identity: Identity,
    pub(super) key: Arc<WatchedKey>,
    pub(super) anchors: TrustAnchors,
    pub(super) tunnel: TunnelConfig,
    pub(super) certificate: Summary,
}

impl Member {
    pub(super) fn new(
        identity: &Identity,
        anchors: TrustAnchors,
        tunnel: TunnelConfig,
    ) -> Result<Self, CertificateError> {
        let key = Arc::new(WatchedKey::new(Arc::clone(identity.key())));
        let identity = Identity::new(identity.chain().to_vec(), Arc::clone(&key) as _)?;
        let certificate = match identity.chain().first() {
            Some(leaf) => Summary::of(leaf)?,
            None => return Err(CertificateError::Malformed("the chain is empty".to_owned())),
        };
        Ok(Self { identity, key, anchors, tunnel, certificate })
    }
}

impl Device {
    /// The receiver tells when an uplink changed.
    pub(super) fn new(config: Config, store: Store, clock: Clock, board: Arc<Board>) -> (Self, watch::Receiver<()>) {
        let (uplinks, changes) = watch::channel(());
        let (method, key) = key_of(&config.role);
        board.set_authentication(method, key);
        let device = Self {
            config,
            store,
            clock,
            board,
            provision: Mutex::default(),
            member: Mutex::default(),
            network: tokio::sync::Mutex::default(),
            interface: Mutex::default(),
            uplinks: Arc::new(uplinks),
        };
        (device, changes)
    }

    pub(super) fn provision(&self) -> Option<Arc<Provision>> {
        lock(&self.provision).clone()
    }

    pub(super) fn member(&self) -> Option<Arc<Member>> {
        lock(&self.member).clone()
    }

    /// Lets go of the TPM and of all that was made with it.
    pub(super) fn forget(&self) {
        *lock(&self.provision) = None;
        self.set_member(None, None);
    }

    pub(super) fn set_provision(&self, provision: Provision) {
        *lock(&self.provision) = Some(Arc::new(provision));
    }

    pub(super) fn set_member(&self, device_id: Option<String>, member: Option<Member>) {
        self.board.set_member(device_id, member.as_ref().map(|member| member.certificate.clone()));
        *lock(&self.member) = member.map(Arc::new);
    }

    /// The machine's network, taken over at the first call.
    pub(super) async fn network(&self) -> Result<Arc<Network>, NetworkError> {
        let mut slot = self.network.lock().await;
        if let Some(network) = slot.as_ref() {
            return Ok(Arc::clone(network));
        }
        let network = Arc::new(Network::start(self.network_settings()).await?);
        let mut changes = network.uplinks();
        let uplinks = Arc::clone(&self.uplinks);
        // Ends with the network, which holds the other end.
        tokio::spawn(async move {
            while changes.changed().await.is_ok() {
                if changes.borrow_and_update().any() {
                    uplinks.send_replace(());
                }
            }
        });
        *slot = Some(Arc::clone(&network));
        Ok(network)
    }

    /// The tunnel's interface, made if it is not there. It outlives a lost tunnel, so that what the machine's applications have
    /// open outlives it, too.
    pub(super) fn interface(&self) -> Result<Arc<Tun>, TunError> {
        let mut slot = lock(&self.interface);
        if let Some(tun) = slot.as_ref() {
            return Ok(Arc::clone(tun));
        }
        let name = self.config.interface.as_str().to_owned();
        let tun = Arc::new(Tun::open(&TunConfig { name, mtu: SMALLEST_MTU, queues: NonZeroU16::MIN })?);
        *slot = Some(Arc::clone(&tun));
        Ok(tun)
    }

    /// Takes addresses, routes and DNS back and removes the interface.
    pub(super) async fn take_down_interface(&self) {
        let network = self.network.lock().await.clone();
        if let Some(network) = network
            && let Err(error) = network.clear().await
        {
            log::warn!("the tunnel's routes and addresses could not all be removed: {error}");
        }
        self.board.set_tunnel(Applied::default());
        lock(&self.interface).take();
    }

    /// Leaves the machine's network as it was before the daemon started.
    pub(super) async fn close_network(&self) {
        self.take_down_interface().await;
        let Some(network) = self.network.lock().await.take() else { return };
        if let Err(error) = network.stop().await {
            log::warn!("the routing rules could not be removed: {error}");
        }
    }

    fn network_settings(&self) -> Settings {
        let fixed: Vec<IpAddr> = self.provision().map_or_else(Vec::new, |provision| {
            provision.first_boot.uplinks.iter().flat_map(|uplink| uplink.dns.iter().copied()).collect()
        });
        let resolvers = match &self.config.role {
            _ if !self.config.resolvers.is_empty() => UplinkDns::Fixed(self.config.resolvers.clone()),
            Role::Managed(_) => UplinkDns::Networkd { directory: PathBuf::from("/run/systemd/netif"), fixed },
            Role::Standalone(_) => UplinkDns::ResolvConf,
        };
        Settings {
            resolvers,
            firewall: if self.config.firewall { Firewall::Table } else { Firewall::None },
            dns: match self.config.dns {
                DnsBackend::Resolved => dns::Backend::Resolved,
                DnsBackend::None => dns::Backend::None,
            },
        }
    }
}

/// The kind of the device's key, and where it lives.
fn key_of(role: &Role) -> (Method, String) {
    let own = match role {
        Role::Managed(managed) => return (Method::Tpm, managed.tcti.clone()),
        Role::Standalone(standalone) => &standalone.identity,
    };
    match own {
        Own::Pem(pem) => (Method::Pem, pem.key.display().to_string()),
        Own::Bound(bound) => (Method::Bound, bound.key.display().to_string()),
        Own::Pkcs12(pkcs12) => (Method::Pkcs12, pkcs12.file.display().to_string()),
        Own::Pkcs11(card) => (Method::Pkcs11, card.uri.to_string()),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
