//! The device daemon `vpnd` and its command line `vpnctl`.
//!
//! | room | what it does |
//! |---|---|
//! | [`daemon`] | runs all the others |
//! | [`api`] | the local API, both sides |
//! | [`config`] | the configuration file |
//! | [`roaming`] | keeps one tunnel alive over several connections: a state machine without I/O |
//! | [`state`] | what the device is doing: a state machine without I/O |
//! | [`store`] | what is kept between two boots |
//! | [`certificate`] | the device's own certificate |
//! | [`enrol`] | asks the manager to be let in |
//! | [`peer`] | what a failed handshake means |
//! | [`journal`] | where log lines go |
//! | [`clock`] | the time, on a machine that may boot in 1970 |
//! | [`vpnctl`] | prints a status for a human |
//! | [`network`] | addresses, routes, rules, firewall sets and name resolution of the machine; marked sockets |

pub mod api;
pub mod certificate;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod enrol;
pub mod journal;
pub mod network;
pub mod peer;
pub mod pin;
pub mod roaming;
pub mod state;
pub mod store;
pub mod vpnctl;
