//! How a machine proves who it is: each way that its configuration may choose opens a real tunnel, and each is refused for what is wrong
//! with it.
#![allow(clippy::unwrap_used)]

mod card;
mod machine_bound;
mod soft_certificate;
mod stage;
