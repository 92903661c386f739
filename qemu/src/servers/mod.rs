//! The product's servers, run as an administrator runs them.

mod gateway;
mod manager;

pub(crate) use gateway::{FIRST, SECOND};
pub use gateway::{Gateway, Session};
pub use manager::{DeviceRecord, Manager, ManagerOptions};
