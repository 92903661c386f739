//! One certificate, and many connections with it.

use std::net::{IpAddr, Ipv4Addr};

use m2m_tunnel::http3::Code;
use quinn::TransportConfig;

use crate::{
    peer::Tunnel,
    stage::{Cost, ENEMY, Stage},
};

/// Tunnels that are opened and left open, at a time.
const TUNNELS: usize = 100;
/// Sessions that a device has at most.
const SESSIONS: usize = 4;
/// What the gateway closes the others with: replaced by newer sessions of this device.
const REPLACED: Code = Code(0x6d3202);
/// Four sessions, and what those that are closed cost until they are forgotten.
const COST: Cost = Cost { memory: 48 << 20, files: 8 };

#[test]
fn one_certificate_has_four_sessions_however_many_it_opens() {
    let mut stage = Stage::set();
    stage.attack_on("connections with one certificate", COST, |stage| {
        let here = IpAddr::V4(Ipv4Addr::new(198, 19, 0, 1));
        stage.runtime.block_on(async {
            let mut tunnels = Vec::new();
            for _ in 0..TUNNELS {
                tunnels.push(Tunnel::open(&stage.enemy, here, &stage.credentials, TransportConfig::default()).await);
            }
            let sessions = stage.gateway.sessions(ENEMY);
            assert!(sessions.len() <= SESSIONS, "{} sessions", sessions.len());
            // The first one is that which packets go to.
            let left = tunnels.split_off(TUNNELS - SESSIONS);
            for tunnel in &tunnels[1..] {
                assert_eq!(tunnel.peer.told().await.0, REPLACED);
            }
            for tunnel in tunnels.drain(..1).chain(left) {
                tunnel.peer.close().await;
            }
        });
    });
    stage.finish();
}
