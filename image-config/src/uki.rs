//! Unified kernel images (the UAPI group's specification): PE files whose sections are the kernel, its command line,
//! its initrd and the `os-release` of the system that belongs to it.

use std::io::{self, SeekFrom};

use crate::esp::ReadSeek;

/// What the sections of a unified kernel image say about the slot that it boots.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct KernelImage {
    /// `IMAGE_VERSION` of its `os-release`.
    pub(crate) version: Option<String>,
    /// The kernel's release.
    pub(crate) kernel: Option<String>,
    /// The root hash of the slot's verity tree, hexadecimal.
    pub(crate) root_hash: Option<String>,
    /// Its size in bytes.
    pub(crate) size: u64,
}

/// A section of text is never larger, whatever its header says.
const MAX_TEXT: u32 = 64 << 10;

/// Reads the sections of text of the PE file `image`.
pub(crate) fn read(image: &mut dyn ReadSeek) -> io::Result<KernelImage> {
    let mut read = KernelImage { size: image.seek(SeekFrom::End(0))?, ..KernelImage::default() };

    let dos_header: [u8; 64] = bytes(image, 0)?;
    if &dos_header[..2] != b"MZ" {
        return Err(damaged("expected a PE file, which begins with MZ"));
    }
    let pe_offset = u64::from(u32_at(&dos_header, 60));
    let file_header: [u8; 24] = bytes(image, pe_offset)?;
    if &file_header[..4] != b"PE\0\0" {
        return Err(damaged("expected a PE header"));
    }
    let sections = u64::from(u16_at(&file_header, 6));
    let table = pe_offset + 24 + u64::from(u16_at(&file_header, 20));

    for index in 0..sections {
        let section: [u8; 40] = bytes(image, table + 40 * index)?;
        let (virtual_size, raw_size) = (u32_at(&section, 8), u32_at(&section, 16));
        let mut text = || text(image, u32_at(&section, 20), virtual_size.min(raw_size));
        match &section[..8] {
            b".osrel\0\0" => read.version = assignment(&text()?, "IMAGE_VERSION", '\n'),
            b".cmdline" => read.root_hash = assignment(&text()?, "roothash", ' '),
            b".uname\0\0" => read.kernel = Some(text()?.trim().to_owned()),
            _ => {}
        }
    }
    Ok(read)
}

fn bytes<const N: usize>(image: &mut dyn ReadSeek, offset: u64) -> io::Result<[u8; N]> {
    let mut buffer = [0; N];
    image.seek(SeekFrom::Start(offset))?;
    image.read_exact(&mut buffer)?;
    Ok(buffer)
}

fn text(image: &mut dyn ReadSeek, offset: u32, size: u32) -> io::Result<String> {
    let mut buffer = vec![0; size.min(MAX_TEXT) as usize];
    image.seek(SeekFrom::Start(offset.into()))?;
    image.read_exact(&mut buffer)?;
    let end = buffer.iter().position(|byte| *byte == 0).unwrap_or(buffer.len());
    Ok(String::from_utf8_lossy(&buffer[..end]).into_owned())
}

/// The value of `name=value` among the assignments that `separator` separates, without quotes.
fn assignment(text: &str, name: &str, separator: char) -> Option<String> {
    text.split(separator)
        .find_map(|part| part.trim().strip_prefix(name)?.strip_prefix('='))
        .map(|value| value.trim_matches('"').to_owned())
}

fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([bytes[offset], bytes[offset + 1]])
}

fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(bytes, offset)) | u32::from(u16_at(bytes, offset + 2)) << 16
}

fn damaged(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

/// A PE file with these sections, as small as one can be.
#[cfg(test)]
pub(crate) fn sample(sections: &[(&[u8; 8], &str)]) -> Vec<u8> {
    let mut image = vec![0; 64];
    image[..2].copy_from_slice(b"MZ");
    image[60] = 64;
    let mut header = [0; 24];
    header[..4].copy_from_slice(b"PE\0\0");
    header[6] = u8::try_from(sections.len()).unwrap_or(u8::MAX);
    image.extend(header);
    let mut offset = u32::try_from(image.len() + 40 * sections.len()).unwrap_or(u32::MAX);
    for (name, content) in sections {
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let mut section = [0; 40];
        section[..8].copy_from_slice(*name);
        section[8..12].copy_from_slice(&size.to_le_bytes());
        section[16..20].copy_from_slice(&size.to_le_bytes());
        section[20..24].copy_from_slice(&offset.to_le_bytes());
        image.extend(section);
        offset += size;
    }
    image.extend(sections.iter().flat_map(|(_, content)| content.bytes()));
    image
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;

    #[test]
    fn reads_what_the_sections_say() {
        let image = sample(&[
            (b".osrel\0\0", "ID=m2mvpn\nIMAGE_VERSION=\"0.1.0\"\n"),
            (b".linux\0\0", "kernel"),
            (b".uname\0\0", "6.12.1-cloud"),
            (b".cmdline", "quiet roothash=abcd m2mvpn.slot=a\n"),
        ]);
        let expected = KernelImage {
            version: Some("0.1.0".to_owned()),
            kernel: Some("6.12.1-cloud".to_owned()),
            root_hash: Some("abcd".to_owned()),
            size: image.len() as u64,
        };
        assert_eq!(read(&mut Cursor::new(image)).unwrap(), expected);
    }

    proptest! {
        #[test]
        fn never_panics(damage in proptest::collection::vec((0..200_usize, any::<u8>()), 0..20), length in 0..300_usize) {
            let mut image = sample(&[(b".osrel\0\0", "IMAGE_VERSION=1"), (b".cmdline", "roothash=abcd")]);
            for (position, byte) in damage {
                if let Some(place) = image.get_mut(position) {
                    *place = byte;
                }
            }
            image.truncate(length);
            let _ = read(&mut Cursor::new(image));
        }
    }
}
