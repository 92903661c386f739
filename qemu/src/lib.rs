//! A lab for machines that join a company's network by themselves.
//!
//! [`Lab::start`] makes an internet in miniature out of network namespaces: an uplink for devices with DHCP, DNS, router
//! advertisements, NTP and NAT; two gateways and a manager that the internet reaches; and a company that only the gateways
//! reach. Devices are virtual machines or processes, each with a software TPM. Every packet on the uplink is captured,
//! and [`Policy`] says which of them may be there.
//!
//! The lab needs root and the tools listed in `qemu/packages`. All of it lives in private PID, mount and network
//! namespaces: any number of labs run at once with the same names and addresses, and whatever ends the process that
//! started one, no process, namespace or file stays behind.
//!
//! ```no_run
//! # fn main() -> m2m_lab::Result<()> {
//! let mut lab = m2m_lab::Lab::start(m2m_lab::LabOptions::default())?;
//! println!("{}", lab.topology().gateway.ip("address show")?);
//! assert!(lab.capture()?.audit(&m2m_lab::Policy::lab())?.is_empty());
//! # Ok(())
//! # }
//! ```

pub mod addresses;
pub mod capture;
mod daemon;
mod device_link;
mod dnsmasq;
mod error;
mod holder;
mod lab;
pub mod machine;
mod node;
mod process;
mod programs;
mod routing;
mod servers;
mod service;
mod sntp;
mod status;
mod swtpm;
mod topology;
mod wait;
mod web;

pub use capture::{Capture, Frame, Policy, Violation};
pub use daemon::Daemon;
pub use device_link::{DeviceNode, Firewall};
pub use error::{LabError, Result};
pub use holder::Holder;
pub use lab::{Lab, LabOptions};
pub use machine::{Accelerator, FlashedImage, Machine, MachineOptions};
pub use node::Node;
pub use process::{ChildHandle, Output, resident_bytes};
pub use programs::Programs;
pub use routing::Routing;
pub use servers::{DeviceRecord, Gateway, Manager, ManagerOptions, Session};
pub use status::{Certificate, Milestones, Status};
pub use swtpm::{Swtpm, TpmAttachment};
pub use topology::{DEVICE_LINK, Topology};
pub use wait::{wait_for, wait_until};
pub use web::WebServer;
