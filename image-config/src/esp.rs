//! The EFI system partition: where the boot loader, the kernels and the first-boot file are.

use std::io::{self, ErrorKind, Read, Write};

use fatfs::{FileSystem, FsOptions, ReadWriteSeek};

use crate::disk::Region;
use crate::{Disk, ImageError};

/// Where the first-boot file lies on the partition.
pub const FIRST_BOOT_PATH: &str = "m2mvpn/first-boot.toml";

/// The UEFI Specification's type for it, section 5.3.3.
pub(crate) const TYPE_UUID: &str = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b";

/// A first-boot file is never larger, whatever lies there.
const MAX_FIRST_BOOT: u64 = 1 << 20;

/// The EFI system partition of a disk.
pub struct Esp<'disk> {
    disk: &'disk Disk,
    files: FileSystem<Region>,
}

impl<'disk> Esp<'disk> {
    /// Opens the first EFI system partition of `disk`.
    ///
    /// # Errors
    /// [`ImageError::NoEsp`], or [`ImageError::Esp`] if it is no FAT file system.
    pub fn open(disk: &'disk Disk) -> Result<Self, ImageError> {
        let partition = disk
            .partitions()
            .iter()
            .find(|partition| partition.type_uuid.eq_ignore_ascii_case(TYPE_UUID))
            .ok_or(ImageError::NoEsp)?;
        let region = disk.region(partition).map_err(ImageError::Esp)?;
        let files = FileSystem::new(region, FsOptions::new()).map_err(ImageError::Esp)?;
        Ok(Self { disk, files })
    }

    /// The text of the first-boot file, or `None` if there is none.
    ///
    /// # Errors
    /// [`ImageError::Esp`].
    pub fn first_boot(&self) -> Result<Option<String>, ImageError> {
        let file = match self.files.root_dir().open_file(FIRST_BOOT_PATH) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(ImageError::Esp(error)),
        };
        let mut bytes = Vec::new();
        file.take(MAX_FIRST_BOOT).read_to_end(&mut bytes).map_err(ImageError::Esp)?;
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Puts `text` in place of the first-boot file. The old one is lost only after the new one is written.
    ///
    /// # Errors
    /// [`ImageError::Esp`].
    pub fn set_first_boot(self, text: &str) -> Result<(), ImageError> {
        replace(&self.files, FIRST_BOOT_PATH, text.as_bytes()).map_err(ImageError::Esp)?;
        self.files.unmount().map_err(ImageError::Esp)?;
        self.disk.sync().map_err(ImageError::Esp)
    }

    /// The names of the unified kernel images in `EFI/Linux`, sorted, with what `read` makes of each.
    pub(crate) fn kernels<T>(
        &self,
        mut read: impl FnMut(&str, &mut dyn ReadSeek) -> Result<T, ImageError>,
    ) -> Result<Vec<(String, T)>, ImageError> {
        let directory = match self.files.root_dir().open_dir("EFI/Linux") {
            Ok(directory) => directory,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(ImageError::Esp(error)),
        };
        let mut kernels = Vec::new();
        for entry in directory.iter() {
            let entry = entry.map_err(ImageError::Esp)?;
            let name = entry.file_name();
            if entry.is_file() && name.to_ascii_lowercase().ends_with(".efi") {
                kernels.push((name.clone(), read(&name, &mut entry.to_file())?));
            }
        }
        kernels.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(kernels)
    }
}

/// What a kernel image is read from.
pub(crate) trait ReadSeek: Read + io::Seek {}

impl<T: Read + io::Seek> ReadSeek for T {}

/// Writes beside `path`, then renames: FAT has no atomic replacement, but this way one whole file is always there.
fn replace<T: ReadWriteSeek>(files: &FileSystem<T>, path: &str, content: &[u8]) -> io::Result<()> {
    let root = files.root_dir();
    let temporary = format!("{path}.new");
    if let Some((directory, _)) = path.rsplit_once('/') {
        root.create_dir(directory)?;
    }
    let mut file = root.create_file(&temporary)?;
    file.truncate()?;
    file.write_all(content)?;
    file.flush()?;
    drop(file);
    match root.remove(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    root.rename(&temporary, &root, path)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn replacing_leaves_one_file_with_the_new_content() {
        let mut bytes = Cursor::new(vec![0; 1 << 20]);
        fatfs::format_volume(&mut bytes, fatfs::FormatVolumeOptions::new()).unwrap();
        let files = FileSystem::new(bytes, FsOptions::new()).unwrap();
        replace(&files, FIRST_BOOT_PATH, &vec![b'x'; 9000]).unwrap();
        replace(&files, FIRST_BOOT_PATH, b"short").unwrap();
        let directory = files.root_dir().open_dir("m2mvpn").unwrap();
        let names: Vec<_> = directory.iter().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [".", "..", "first-boot.toml"]);
        let mut text = String::new();
        directory.open_file("first-boot.toml").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "short");
    }
}
