//! What becomes of a device's packet.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use m2m_tunnel::packet::Header;
use m2m_tunnel::packet::icmp::{self, Cause};

use crate::gateway::Gateway;
use crate::policy::Refusal;
use crate::session::Session;

/// What becomes of it.
#[derive(Debug)]
pub(crate) enum Passed {
    /// It goes to the kernel, which forwards it and counts down its hop limit as every router does.
    On(Bytes),
    /// It may not go on, and this is the answer to the device.
    Answered(Bytes),
    /// It is lost.
    Dropped,
}

/// Checks a packet of a device, and counts it.
pub(crate) fn pass(gateway: &Gateway, session: &Arc<Session>, packet: Bytes, now: Instant) -> Passed {
    let Some(Header { source, destination, .. }) = Header::parse(&packet) else {
        session.counters.malformed();
        return Passed::Dropped;
    };
    let confined = || match &session.confinement {
        Some(confinement) if !confinement.lets_out(destination, &packet) => Err(Refusal::OutOfScope),
        _ => Ok(()),
    };
    let Err(refusal) = gateway.policy.check(&session.addresses, source, destination).and_then(|()| confined()) else {
        // A device that sends over a new session has moved there. Over an old one it only sent what was under way.
        if !session.was_current() {
            gateway.make_current(session);
        }
        session.counters.received(packet.len());
        return Passed::On(packet);
    };
    session.counters.refused(refusal);
    // Nobody answers to a forged source.
    if refusal == Refusal::Spoofed || !session.may_reply(now) {
        return Passed::Dropped;
    }
    match icmp::error(&packet, Cause::Prohibited, destination) {
        Some(answer) => Passed::Answered(answer.into()),
        None => Passed::Dropped,
    }
}
