//! What device, gateway, manager and image say to each other, as types.
//!
//! | module | who writes it | who reads it |
//! |---|---|---|
//! | [`first_boot`] | the integrator, into the image | the device, at every boot |
//! | [`machine`] | the image, at every boot | `vpnd` |
//! | [`enrolment`] | device and manager, over HTTPS | manager and device |
//! | [`device_config`] | the manager | the device |
//!
//! The rest is what every reader and writer of those needs: [`config_file`] loads a TOML file with errors that name file,
//! line, field and what was expected; [`durable`] writes a file that survives a power cut; [`names`] holds the
//! validated strings.
//!
//! Every document carries a `version`; a reader refuses a version that it does not know instead of guessing.

pub mod config_file;
pub mod device_config;
pub mod durable;
pub mod enrolment;
pub mod first_boot;
pub mod machine;
pub mod names;
mod version;

pub use version::Version1;
