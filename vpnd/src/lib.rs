//! The device daemon `vpnd` and its command line `vpnctl`.
//!
//! | room | what it does |
//! |---|---|
//! | [`config`] | the configuration file |
//! | [`state`] | what the device is doing: a state machine without I/O |
//! | [`store`] | what is kept between two boots |
//! | [`certificate`] | the device's own certificate |
//! | [`enrol`] | asks the manager to be let in |
//! | [`peer`] | what a failed handshake means |
//! | [`clock`] | the time, on a machine that may boot in 1970 |
//! | [`network`] | addresses, routes, rules, firewall sets and name resolution of the machine; marked sockets |

pub mod certificate;
pub mod clock;
pub mod config;
pub mod enrol;
pub mod network;
pub mod peer;
pub mod state;
pub mod store;
