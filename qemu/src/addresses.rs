//! Names and addresses of the lab: the documentation ranges of RFC 5737, RFC 3849 and RFC 2606, for the second gateway's link the
//! benchmark range of RFC 2544, and private ranges for the company.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Router on the device link: default route, DHCP, DNS and NTP server.
pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Router on the device link.
pub const ROUTER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1);

/// Name of the gateway in the internet's DNS.
pub const GATEWAY_NAME: &str = "gateway.example";
/// The gateway's address.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The gateway's address.
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, 0x10);
/// The gateway's address in the company's network.
pub const GATEWAY_INSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 1);
/// The gateway's address in the company's network.
pub const GATEWAY_INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 1);

/// Name of the second gateway in the internet's DNS.
pub const GATEWAY2_NAME: &str = "gateway2.example";
/// The second gateway's address, on a link of its own.
pub const GATEWAY2_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 10);
/// The second gateway's address.
pub const GATEWAY2_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 4, 0, 0, 0, 0, 0x10);
/// The second gateway's address in the company's network.
pub const GATEWAY2_INSIDE_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 2);
/// The second gateway's address in the company's network.
pub const GATEWAY2_INSIDE_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 2);

/// Name of the manager in the internet's DNS.
pub const MANAGER_NAME: &str = "manager.example";
/// The manager's address.
pub const MANAGER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The manager's address.
pub const MANAGER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 3, 0, 0, 0, 0, 0x10);

/// Name of the company's web server, known only to the company's own DNS.
pub const INTRANET_NAME: &str = "intranet.corp.example";
/// Domain of the company.
pub const COMPANY_DOMAIN: &str = "corp.example";
/// The company's web server (port 80) and DNS (port 53).
pub const INTRANET_V4: Ipv4Addr = Ipv4Addr::new(10, 20, 0, 80);
/// The company's web server (port 80) and DNS (port 53).
pub const INTRANET_V6: Ipv6Addr = Ipv6Addr::new(0xfd20, 0, 0, 0, 0, 0, 0, 0x80);

/// Networks of the company that a device reaches through the tunnel.
pub const COMPANY_NETWORKS: [&str; 2] = ["10.20.0.0/24", "fd20::/64"];
/// Addresses that devices get in the tunnel, IPv4.
pub const POOL_V4: &str = "10.99.0.0/16";
/// Addresses that devices get in the tunnel, IPv6.
pub const POOL_V6: &str = "fd99::/64";

/// Prefix length of every IPv4 link.
pub(crate) const PREFIX_V4: u8 = 24;
/// Prefix length of every IPv6 link.
pub(crate) const PREFIX_V6: u8 = 64;
/// The device link.
pub(crate) const DEVICE_NETWORK_V4: &str = "192.0.2.0/24";
/// The device link, first address, for dnsmasq's range.
pub(crate) const DEVICE_NETWORK_V6: &str = "2001:db8:1::";
/// Router on the gateway's link.
pub(crate) const GATEWAY_ROUTER: (&str, &str) = ("198.51.100.1", "2001:db8:2::1");
/// Router on the second gateway's link.
pub(crate) const GATEWAY2_ROUTER: (&str, &str) = ("198.18.0.1", "2001:db8:4::1");
/// Router on the manager's link.
pub(crate) const MANAGER_ROUTER: (&str, &str) = ("203.0.113.1", "2001:db8:3::1");
