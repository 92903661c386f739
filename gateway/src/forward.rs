//! Packets from the company's network, to the sessions.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use m2m_tunnel::packet::Header;
use m2m_tunnel::packet::icmp::{self, Cause, RateLimit};
use m2m_tunnel::session::SendError;
use m2m_tunnel::tun::{self, TunWriter};

use crate::gateway::Gateway;
use crate::session::Session;
use crate::table::Table;

/// Takes packets from the tunnel interface and gives each to the session of its destination, until the interface is gone.
///
/// The kernel has forwarded them already and counted down their hop limit.
pub(crate) async fn run(gateway: Arc<Gateway>) -> io::Error {
    let mut reader = gateway.tun.reader();
    let mut writer = gateway.tun.writer();
    let mut replies = RateLimit::new(100, Instant::now());
    loop {
        let replied = {
            let batch = match reader.recv_batch().await {
                Ok(batch) => batch,
                Err(error) if tun::is_gone(&error) => return error,
                Err(error) => {
                    log::warn!("the tunnel interface gave no packets: {error}");
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            };
            let table = gateway.table();
            let mut replied = false;
            for packet in batch {
                replied |= dispatch(&gateway, &table, packet, &mut writer, &mut replies);
            }
            replied
        };
        if replied && let Err(error) = writer.flush().await {
            log::debug!("the tunnel interface took no ICMP messages: {error}");
        }
    }
}

/// While the interface is down.
const PAUSE: Duration = Duration::from_millis(100);

/// Whether an answer to the sender was added to `writer`.
fn dispatch(
    gateway: &Gateway,
    table: &Table<Session>,
    packet: &[u8],
    writer: &mut TunWriter,
    replies: &mut RateLimit,
) -> bool {
    // What the kernel says to the link itself (router solicitations, multicast listener reports) is for nobody.
    let Some(Header { destination, .. }) = Header::parse(packet) else { return false };
    if !gateway.is_for_a_device(destination) {
        return false;
    }
    let Some(session) = table.session_of(destination) else {
        gateway.metrics.undeliverable.inc();
        return replies.take(Instant::now()) && answer(packet, Cause::NoRoute, destination, writer);
    };
    match session.packets.send(packet) {
        Ok(()) => {
            session.counters.sent(packet.len());
            false
        }
        Err(SendError::TooLarge { max }) => {
            session.counters.too_large();
            session.may_reply() && answer(packet, Cause::TooLarge { mtu: max }, destination, writer)
        }
        // The session's own task is about to take it out of the table.
        Err(SendError::Closed(_)) => false,
    }
}

/// The answer comes from the address that the packet was for: the kernel takes a packet from one of its own addresses,
/// coming from outside, for a forgery.
fn answer(packet: &[u8], cause: Cause, from: IpAddr, writer: &mut TunWriter) -> bool {
    let Some(answer) = icmp::error(packet, cause, from) else { return false };
    writer.push(&answer);
    true
}
