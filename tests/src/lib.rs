//! What the end-to-end tests share: a company that has its manager and its gateway running, and things that go wrong.

mod company;
mod content;
mod cutter;
mod image;
mod standalone;
mod stream;
mod traffic;

pub use company::{Company, LIMIT};
pub use content::{Content, Random};
pub use cutter::Cutter;
pub use image::image;
pub use standalone::{AuthenticationSection, StandalonePage, shell};
pub use stream::Stream;
pub use traffic::Traffic;
