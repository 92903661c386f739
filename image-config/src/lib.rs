//! Images of m2mvpn: what the first-boot file makes of a machine, and reading and writing a built image.
//!
//! Two programs stand on it: `m2m-first-boot`, which runs in the image at every boot, and `m2m-image`, with which an
//! integrator sets and inspects images on any machine, without mounting them and without being root.

mod disk;
mod esp;
mod inspect;
pub mod machine;
pub mod network;
mod uki;

pub use disk::{Disk, Partition};
pub use esp::{Esp, FIRST_BOOT_PATH};
pub use inspect::{FirstBootState, Report, Slot, inspect};

/// Why an image could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The image cannot be opened.
    #[error("cannot be opened: {0}")]
    Open(#[source] std::io::Error),
    /// There is no partition table.
    #[error("no valid GUID partition table: {0}; is this a disk image?")]
    PartitionTable(gpt::GptError),
    /// A partition lies outside of the image.
    #[error("partition {0} lies outside of the image; was the image cut off while it was copied?")]
    Truncated(String),
    /// The EFI system partition is missing.
    #[error("no partition of the type EFI system partition; is this an image of m2mvpn?")]
    NoEsp,
    /// The EFI system partition cannot be read or written.
    #[error("EFI system partition: {0}")]
    Esp(#[source] std::io::Error),
    /// A kernel image is damaged.
    #[error("kernel image {name}: {problem}")]
    KernelImage {
        /// Its file name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
}
