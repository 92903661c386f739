use std::{fs, os::unix::fs::MetadataExt, path::Path};

use anyhow::Context;
use serde::Serialize;

/// Sizes in bytes.
#[derive(Debug, Default, Serialize)]
pub(crate) struct ImageSize {
    /// Of the disk.
    pub(crate) disk: u64,
    /// What the file takes where holes are free.
    pub(crate) allocated: u64,
    /// Of the compressed root file system, when the image's builder has left its figures beside the image.
    pub(crate) root_compressed: Option<u64>,
}

impl ImageSize {
    pub(crate) fn read(image: &Path) -> anyhow::Result<Self> {
        let metadata = fs::metadata(image)
            .with_context(|| format!("{} cannot be read; make it by image-config/build", image.display()))?;
        Ok(Self {
            disk: metadata.len(),
            allocated: metadata.blocks() * 512,
            root_compressed: root_compressed(&image.with_extension("json")),
        })
    }
}

fn root_compressed(figures: &Path) -> Option<u64> {
    let value: serde_json::Value = serde_json::from_str(&fs::read_to_string(figures).ok()?).ok()?;
    value.get("root_compressed")?.as_u64()
}
