//! Sessions against each other over a network that the test makes worse, with a simulated clock.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../certified/mod.rs"]
mod certified;
mod life;
mod links;
mod misbehaviour;
mod played;
mod refusals;
mod silence;
mod trouble;
mod world;
