//! The numbers by which the daemon's own packets are told from all others.
//!
//! They are the same in the image's firewall; the three are one number, so that whoever meets it knows whose it is.

/// The firewall mark (`SO_MARK`) of every packet that the daemon itself sends: "m2".
pub const MARK: u32 = 0x6d32;

/// The routing table with the tunnel's routes.
pub const TABLE: u32 = 0x6d32;

/// The priority of the rule `not fwmark MARK lookup TABLE`: after the local table, before the main one.
pub const RULE_PRIORITY: u32 = 0x6d32;
