//! The partitions of a disk image or of a disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use gpt::disk::LogicalBlockSize;
use serde::Serialize;

use crate::ImageError;

/// A disk or disk image with a GUID partition table.
#[derive(Debug)]
pub struct Disk {
    file: File,
    partitions: Vec<Partition>,
}

impl Disk {
    /// Opens the disk at `path`, which may be a file or a block device.
    ///
    /// # Errors
    /// [`ImageError`] if it cannot be opened or has no valid partition table.
    pub fn open(path: &Path, writable: bool) -> Result<Self, ImageError> {
        let mut file = OpenOptions::new().read(true).write(writable).open(path).map_err(ImageError::Open)?;
        let size = file.seek(SeekFrom::End(0)).map_err(ImageError::Open)?;
        let sector = LogicalBlockSize::Lb512;
        let table = gpt::GptConfig::new()
            .logical_block_size(sector)
            .open_from_device(file.try_clone().map_err(ImageError::Open)?)
            .map_err(ImageError::PartitionTable)?;
        let partitions = table
            .partitions()
            .iter()
            .filter(|(_, partition)| partition.is_used())
            .map(|(number, partition)| {
                let cut_off = || ImageError::Truncated(partition.name.clone());
                let offset = partition.bytes_start(sector).map_err(|_| cut_off())?;
                let length = partition.bytes_len(sector).map_err(|_| cut_off())?;
                if offset.checked_add(length).is_none_or(|end| end > size) {
                    return Err(cut_off());
                }
                Ok(Partition {
                    number: *number,
                    name: partition.name.clone(),
                    type_uuid: partition.part_type_guid.guid.to_string(),
                    uuid: partition.part_guid.to_string(),
                    offset,
                    length,
                })
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { file, partitions })
    }

    /// The partitions, by their number.
    #[must_use]
    pub fn partitions(&self) -> &[Partition] {
        &self.partitions
    }

    /// The bytes of one partition.
    pub(crate) fn region(&self, partition: &Partition) -> io::Result<Region> {
        Ok(Region { file: self.file.try_clone()?, offset: partition.offset, length: partition.length, position: 0 })
    }

    /// Puts what was written on the disk.
    pub(crate) fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
}

/// One entry of the partition table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Partition {
    /// The number, from 1.
    pub number: u32,
    /// The label.
    pub name: String,
    /// The type, a UUID of the Discoverable Partitions Specification.
    pub type_uuid: String,
    /// The partition's own UUID.
    pub uuid: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// Its length in bytes.
    pub length: u64,
}

/// The bytes of one partition as a file of its own: what is read or written never leaves it.
#[derive(Debug)]
pub(crate) struct Region {
    file: File,
    offset: u64,
    length: u64,
    position: u64,
}

impl Region {
    /// Moves the shared file to this region's position and says how many of `wanted` bytes are left.
    fn prepare(&mut self, wanted: usize) -> io::Result<usize> {
        self.file.seek(SeekFrom::Start(self.offset + self.position))?;
        let left = self.length.saturating_sub(self.position);
        Ok(usize::try_from(left).unwrap_or(usize::MAX).min(wanted))
    }
}

impl Read for Region {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.prepare(buffer.len())?;
        let read = self.file.read(&mut buffer[..length])?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Write for Region {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let length = self.prepare(buffer.len())?;
        let written = self.file.write(&buffer[..length])?;
        self.position += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Seek for Region {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(delta) => self.length.checked_add_signed(delta),
            SeekFrom::Current(delta) => self.position.checked_add_signed(delta),
        };
        self.position =
            position.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "seek before the partition's begin"))?;
        Ok(self.position)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_region_ends_where_its_partition_ends() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut region = Region { file: file.try_clone().unwrap(), offset: 2, length: 4, position: 0 };
        let mut text = String::new();
        region.read_to_string(&mut text).unwrap();
        assert_eq!(text, "2345");
        region.seek(SeekFrom::End(-1)).unwrap();
        assert_eq!(region.write(b"xyz").unwrap(), 1);
        assert_eq!(region.write(b"yz").unwrap(), 0);
        assert!(region.seek(SeekFrom::Start(0)).is_ok() && region.seek(SeekFrom::Current(-1)).is_err());
        file.rewind().unwrap();
        let mut whole = String::new();
        file.read_to_string(&mut whole).unwrap();
        assert_eq!(whole, "01234x6789");
    }

    #[test]
    fn a_file_that_is_no_disk_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(1 << 20).unwrap();
        let error = Disk::open(file.path(), false).unwrap_err();
        assert!(matches!(error, ImageError::PartitionTable(_)), "{error}");
        let error = Disk::open(Path::new("/nonexistent/image"), false).unwrap_err();
        assert!(matches!(error, ImageError::Open(_)), "{error}");
    }
}
