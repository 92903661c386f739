//! What is in an image.

use std::path::Path;

use m2m_protocol::config_file;
use m2m_protocol::first_boot::FirstBoot;
use serde::Serialize;

use crate::{Disk, Esp, FIRST_BOOT_PATH, ImageError, Partition, uki};

/// Everything that `m2m-image inspect` tells.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The partition table.
    pub partitions: Vec<Partition>,
    /// The slots that a kernel image boots, by the name of the image.
    pub slots: Vec<Slot>,
    /// The first-boot file.
    pub first_boot: FirstBootState,
}

/// A root slot, seen from the kernel image that boots it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// The file name of the kernel image.
    pub kernel_image: String,
    /// The size of the kernel image in bytes.
    pub kernel_image_size: u64,
    /// The image's version.
    pub version: Option<String>,
    /// The kernel's release.
    pub kernel: Option<String>,
    /// The root hash of the slot's verity tree, hexadecimal.
    pub root_hash: Option<String>,
    /// The label of the root partition that carries the first half of the root hash as its UUID; `None` if no
    /// partition does, and the kernel image cannot boot.
    pub root_partition: Option<String>,
    /// The label of the verity partition that carries the second half.
    pub hash_partition: Option<String>,
}

/// The state of the first-boot file.
#[derive(Debug, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
pub enum FirstBootState {
    /// There is none: the machine will not join any network.
    Missing,
    /// It is there and wrong: the machine will not join any network.
    Invalid {
        /// Where and what was expected.
        error: String,
    },
    /// It is valid.
    Valid {
        /// Its content.
        content: FirstBoot,
    },
}

/// Reads all that there is to tell about `disk`.
///
/// # Errors
/// [`ImageError`] if the disk, its EFI system partition or a kernel image cannot be read. A wrong first-boot file is no
/// error but part of the report.
pub fn inspect(disk: &Disk) -> Result<Report, ImageError> {
    let esp = Esp::open(disk)?;
    let kernels = esp.kernels(|name, file| {
        uki::read(file).map_err(|error| ImageError::KernelImage { name: name.to_owned(), problem: error.to_string() })
    })?;
    let slots = kernels.into_iter().map(|(name, kernel)| slot(name, kernel, disk.partitions())).collect();
    let first_boot = match esp.first_boot()? {
        None => FirstBootState::Missing,
        Some(text) => match config_file::parse(Path::new(FIRST_BOOT_PATH), &text) {
            Ok(content) => FirstBootState::Valid { content },
            Err(error) => FirstBootState::Invalid { error: error.to_string() },
        },
    };
    Ok(Report { partitions: disk.partitions().to_vec(), slots, first_boot })
}

fn slot(kernel_image: String, kernel: uki::KernelImage, partitions: &[Partition]) -> Slot {
    // The Discoverable Partitions Specification: the halves of the root hash are the UUIDs of root and verity.
    let half = |index: usize| {
        let digits = kernel.root_hash.as_deref()?.get(32 * index..32 * (index + 1))?;
        let is_half = |partition: &&Partition| partition.uuid.replace('-', "").eq_ignore_ascii_case(digits);
        Some(partitions.iter().find(is_half)?.name.clone())
    };
    Slot {
        kernel_image,
        kernel_image_size: kernel.size,
        version: kernel.version.clone(),
        kernel: kernel.kernel.clone(),
        root_partition: half(0),
        hash_partition: half(1),
        root_hash: kernel.root_hash,
    }
}
