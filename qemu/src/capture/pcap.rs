use std::{
    fs::{self, OpenOptions},
    io::Write,
    path::Path,
    time::Duration,
};

use crate::{LabError, Result};

/// One captured Ethernet frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Time of capture since 1970.
    pub time: Duration,
    /// The frame from the destination address on.
    pub bytes: Vec<u8>,
}

/// Reads a capture file (pcap, microseconds, little endian, Ethernet, as `tcpdump` writes it on this machine).
///
/// A record that is not complete yet is left out, as `tcpdump` may be writing it.
///
/// # Errors
/// When the file cannot be read, is another kind of file, or holds a frame that was cut by the capture.
pub fn read(path: &Path) -> Result<Vec<Frame>> {
    let bytes = fs::read(path).map_err(LabError::io(format!("read {}", path.display())))?;
    parse(&bytes).map_err(|problem| LabError::answer(path.display().to_string(), problem))
}

/// Appends a frame to a capture file: what the test of an audit plants.
///
/// # Errors
/// When the file cannot be written.
pub fn append(path: &Path, frame: &Frame) -> Result<()> {
    let file = OpenOptions::new().append(true).open(path);
    let mut file = file.map_err(LabError::io(format!("open {}", path.display())))?;
    file.write_all(&record(frame)).map_err(LabError::io(format!("write {}", path.display())))
}

const MAGIC: u32 = 0xa1b2_c3d4;
const LINK_ETHERNET: u32 = 1;
const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

fn parse(bytes: &[u8]) -> Result<Vec<Frame>, String> {
    let word = |offset: usize| -> Option<u32> {
        let word = bytes.get(offset..offset + 4)?;
        Some(u32::from_le_bytes(word.try_into().ok()?))
    };
    if word(0) != Some(MAGIC) || word(20) != Some(LINK_ETHERNET) {
        return Err("not a capture of Ethernet frames".to_owned());
    }
    let mut frames = Vec::new();
    let mut offset = FILE_HEADER;
    while let (Some(seconds), Some(micros), Some(captured), Some(length)) =
        (word(offset), word(offset + 4), word(offset + 8), word(offset + 12))
    {
        if captured != length {
            return Err(format!("packet {} was cut to {captured} of {length} bytes", frames.len() + 1));
        }
        let start = offset + RECORD_HEADER;
        let Some(frame) = bytes.get(start..start + captured as usize) else {
            break;
        };
        let time = Duration::from_secs(seconds.into()) + Duration::from_micros(micros.into());
        frames.push(Frame { time, bytes: frame.to_vec() });
        offset = start + captured as usize;
    }
    Ok(frames)
}

fn record(frame: &Frame) -> Vec<u8> {
    let seconds = u32::try_from(frame.time.as_secs()).unwrap_or(u32::MAX);
    let length = u32::try_from(frame.bytes.len()).unwrap_or(u32::MAX);
    let mut record = Vec::with_capacity(RECORD_HEADER + frame.bytes.len());
    for word in [seconds, frame.time.subsec_micros(), length, length] {
        record.extend_from_slice(&word.to_le_bytes());
    }
    record.extend_from_slice(&frame.bytes);
    record
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn file_header() -> Vec<u8> {
        let mut header = MAGIC.to_le_bytes().to_vec();
        header.extend_from_slice(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        header.extend_from_slice(&262_144_u32.to_le_bytes());
        header.extend_from_slice(&LINK_ETHERNET.to_le_bytes());
        header
    }

    fn frame(byte: u8) -> Frame {
        Frame { time: Duration::new(1_700_000_000, 5_000), bytes: vec![byte; 60] }
    }

    #[test]
    fn frames_come_back_as_they_were_appended() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), file_header()).unwrap();
        append(file.path(), &frame(1)).unwrap();
        append(file.path(), &frame(2)).unwrap();
        assert_eq!(read(file.path()).unwrap(), [frame(1), frame(2)]);
    }

    #[test]
    fn a_record_that_is_still_being_written_is_left_out() {
        let mut bytes = file_header();
        bytes.extend(record(&frame(1)));
        let complete = bytes.len();
        bytes.extend(record(&frame(2)));
        for end in complete..bytes.len() {
            assert_eq!(parse(&bytes[..end]).unwrap(), [frame(1)], "{end}");
        }
    }

    #[test]
    fn a_cut_frame_is_an_error() {
        let mut bytes = file_header();
        bytes.extend(record(&frame(1)));
        bytes[FILE_HEADER + 12] += 1;
        assert!(parse(&bytes).unwrap_err().contains("cut"));
    }

    #[test]
    fn another_file_is_an_error() {
        assert!(parse(b"").is_err());
        assert!(parse(&[0; 64]).is_err());
    }
}
