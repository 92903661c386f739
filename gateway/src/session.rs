//! What the gateway keeps of a device's session.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use ipnet::IpNet;
use m2m_tunnel::capsule::{AssignedAddress, RequestedAddress};
use m2m_tunnel::http3::Code;
use m2m_tunnel::lane::Lane;
use m2m_tunnel::packet::icmp::RateLimit;
use m2m_tunnel::routes::IpRange;

use crate::admit::Admitted;
use crate::confinement::Confinement;
use crate::device_certificate::DeviceCertificate;
use crate::metrics::DeviceCounters;
use crate::policy::Policy;
use crate::pool::Addresses;
use crate::worker::{Order, Seat, WorkerHandle};

/// What the gateway keeps of a session, for whoever has packets for it or wants to close it.
#[derive(Debug)]
pub(crate) struct Session {
    /// Whose it is.
    pub(crate) certificate: DeviceCertificate,
    /// The device's addresses.
    pub(crate) addresses: Addresses,
    /// What the device asked to be confined to.
    pub(crate) confinement: Option<Confinement>,
    /// The device's counters.
    pub(crate) counters: DeviceCounters,
    /// When it began.
    pub(crate) since: SystemTime,
    /// How it is reached.
    pub(crate) way: Way,
    remote: Mutex<SocketAddr>,
    max_packet_size: AtomicUsize,
    /// Whether it was ever the one that packets for its device went to.
    was_current: AtomicBool,
    replies: Mutex<RateLimit>,
    questions: Mutex<RateLimit>,
}

/// ADDRESS_REQUEST capsules a second, and in a burst. A device asks once, and says where it is when it moves.
const QUESTIONS: u32 = 16;

impl Session {
    /// A session that begins now.
    pub(crate) fn new(admitted: Admitted, way: Way, remote: SocketAddr) -> Self {
        let Admitted { certificate, addresses, confinement, counters } = admitted;
        Self {
            certificate,
            addresses,
            confinement,
            counters,
            since: SystemTime::now(),
            way,
            remote: Mutex::new(remote),
            max_packet_size: AtomicUsize::new(0),
            was_current: AtomicBool::new(false),
            replies: Mutex::new(RateLimit::new(20, Instant::now())),
            questions: Mutex::new(RateLimit::new(QUESTIONS, Instant::now())),
        }
    }

    /// What the device is told that it reaches, of all that devices may reach.
    pub(crate) fn routes(&self, policy: &Policy) -> Vec<IpRange> {
        match &self.confinement {
            Some(confinement) => confinement.ranges(),
            None => policy.advertised().into_iter().map(IpRange::from_prefix).collect(),
        }
    }

    /// Closes it and tells the device why.
    pub(crate) fn close(self: &Arc<Self>, end: End) {
        match &self.way {
            Way::Worker(worker, _) => worker.tell(Order::Close(Arc::clone(self), end)),
            Way::Stream(lane) => lane.control().close(end.code(), end.reason()),
        }
    }

    /// Tells the device to go elsewhere; does not wait for it.
    pub(crate) fn go_away(self: &Arc<Self>) {
        match &self.way {
            Way::Worker(worker, _) => worker.tell(Order::GoAway(Arc::clone(self))),
            // One that is gone already needs no telling.
            Way::Stream(lane) => drop(lane.control().go_away()),
        }
    }

    /// Where the device is now; changes when it moves.
    pub(crate) fn remote(&self) -> SocketAddr {
        *self.remote.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The device has moved, or its path carries other packets.
    pub(crate) fn update(&self, remote: SocketAddr, max_packet_size: usize) {
        *self.remote.lock().unwrap_or_else(PoisonError::into_inner) = remote;
        self.max_packet_size.store(max_packet_size, Ordering::Relaxed);
    }

    /// The largest packet in bytes that the device's path carries.
    pub(crate) fn max_packet_size(&self) -> usize {
        self.max_packet_size.load(Ordering::Relaxed)
    }

    /// Whether it was ever the one that packets for its device went to.
    pub(crate) fn was_current(&self) -> bool {
        self.was_current.load(Ordering::Relaxed)
    }

    /// It is the one that packets for its device go to.
    pub(crate) fn is_current_now(&self) {
        self.was_current.store(true, Ordering::Relaxed);
    }

    /// Whether another ICMP message on behalf of this session may be sent now.
    pub(crate) fn may_reply(&self, now: Instant) -> bool {
        self.replies.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }

    /// Whether the device may ask for addresses now.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        self.questions.lock().unwrap_or_else(PoisonError::into_inner).take(now)
    }
}

/// How a session is reached.
#[derive(Debug)]
pub(crate) enum Way {
    /// Over QUIC: the worker that has the connection, and which of its connections it is.
    Worker(WorkerHandle, Seat),
    /// Over TCP.
    Stream(Lane),
}

/// Why the gateway ends a session. The codes are those of HTTP/3 (RFC 9114 section 8.1) where one says it, others of the product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The certificate has been revoked: coming back is of no use.
    Revoked,
    /// The device has opened too many others.
    Replaced,
    /// The device asks for addresses all the time.
    Insistent,
    /// The gateway stops: come back later, or elsewhere.
    Stopping,
}

impl End {
    /// What the device sees as the error code of the connection.
    pub(crate) const fn code(self) -> Code {
        match self {
            Self::Revoked => Code(0x6d3201),
            Self::Replaced => Code(0x6d3202),
            Self::Insistent => Code::EXCESSIVE_LOAD,
            Self::Stopping => Code::NO_ERROR,
        }
    }

    /// What the device sees as the reason.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Revoked => "the device's certificate has been revoked",
            Self::Replaced => "replaced by newer sessions of this device",
            Self::Insistent => "too many requests for addresses",
            Self::Stopping => "the gateway is stopping",
        }
    }
}

/// What a device is given without asking.
pub(crate) fn assignments(addresses: &Addresses) -> Vec<AssignedAddress> {
    addresses.iter().map(|address| AssignedAddress::unrequested(IpNet::from(address))).collect()
}

/// Whether a device asks for the addresses that it has: then it is here, and no longer where it was.
pub(crate) fn claims(addresses: &Addresses, requests: &[RequestedAddress]) -> bool {
    requests.iter().any(|request| addresses.contains(request.prefix.addr()))
}

/// Whatever is asked for, the device has its own addresses; a request gets the one of its family, or a refusal.
pub(crate) fn answers(addresses: &Addresses, requests: &[RequestedAddress]) -> Vec<AssignedAddress> {
    let mut answers = assignments(addresses);
    let own = answers.len();
    for request in requests {
        let same_family = |answer: &&mut AssignedAddress| {
            answer.request_id == 0 && answer.prefix.addr().is_ipv4() == request.prefix.addr().is_ipv4()
        };
        match answers[..own].iter_mut().find(same_family) {
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
