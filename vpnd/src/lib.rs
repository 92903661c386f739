//! The device daemon `vpnd` and its command line `vpnctl`.
//!
//! | room | what it does |
//! |---|---|
//! | [`network`] | addresses, routes, rules, firewall sets and name resolution of the machine; marked sockets |

pub mod network;
