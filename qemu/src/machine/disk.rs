use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use crate::{
    LabError, Result,
    holder::{Holder, WORK_DIR},
    process,
    programs::Programs,
};

/// Copying a disk image takes its time on a slow machine.
const COPY_LIMIT: Duration = Duration::from_secs(120);

/// An image as it is flashed: the given file with a first-boot file set. Machines write to overlays of it.
#[derive(Debug, Clone)]
pub struct FlashedImage {
    holder: Arc<Holder>,
    path: PathBuf,
}

impl FlashedImage {
    /// Copies `image` into the lab under `name` and puts the first-boot file on it, as the integrator does.
    pub(crate) fn create(holder: &Arc<Holder>, name: &str, image: &Path, first_boot: Option<&str>) -> Result<Self> {
        let image = fs::canonicalize(image).map_err(|_| LabError::Missing {
            path: image.to_owned(),
            hint: "make it by image-config/build, or name another one".to_owned(),
        })?;
        let path = PathBuf::from(format!("{WORK_DIR}/{name}.img"));
        let mut copy = holder.command(None, "cp");
        process::run_within(copy.arg("--sparse=always").arg(&image).arg(&path), COPY_LIMIT)?.ok()?;
        let flashed = Self { holder: Arc::clone(holder), path };
        if let Some(text) = first_boot {
            flashed.set_first_boot(name, text)?;
        }
        Ok(flashed)
    }

    fn set_first_boot(&self, name: &str, text: &str) -> Result<()> {
        let file = format!("{WORK_DIR}/{name}.first-boot.toml");
        fs::write(self.holder.outside(&file), text).map_err(LabError::io("write a first-boot file"))?;
        let program = Programs::find()?.path("m2m-image")?;
        let mut command = self.holder.command(None, &program);
        process::run(command.arg("set-first-boot").arg(&self.path).arg(&file))?.ok().map(drop)
    }
}

/// The disk of one machine.
#[derive(Debug)]
pub(super) struct Disk {
    holder: Arc<Holder>,
    path: PathBuf,
}

impl Disk {
    /// A disk that was just flashed.
    pub(super) fn flash(image: &FlashedImage, name: &str) -> Result<Self> {
        let path = PathBuf::from(format!("{WORK_DIR}/{name}.qcow2"));
        let mut command = image.holder.command(None, "qemu-img");
        command.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]).arg(&image.path).arg(&path);
        process::check(&mut command)?;
        Ok(Self { holder: Arc::clone(&image.holder), path })
    }

    /// The disk as a thief copies it.
    pub(super) fn copy(&self, name: &str) -> Result<Self> {
        let path = PathBuf::from(format!("{WORK_DIR}/{name}.qcow2"));
        let mut command = self.holder.command(None, "cp");
        process::run_within(command.arg("--sparse=always").arg(&self.path).arg(&path), COPY_LIMIT)?.ok()?;
        Ok(Self { holder: Arc::clone(&self.holder), path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}
