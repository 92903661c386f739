use std::io::Read;

use sha2::{Digest, Sha256};

/// Bytes that are read at once, at most.
const PIECE: usize = 16 << 10;

/// Bytes that do not repeat: xorshift64*.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Others for each seed, which must not be 0.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next `size` bytes, a multiple of 8.
    pub fn block(&mut self, size: usize) -> Vec<u8> {
        (0..size / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

/// What has gone over one end of a connection: the number of bytes and their SHA-256. Equal when the same bytes went.
#[derive(Debug, Clone, Default)]
pub struct Content {
    bytes: usize,
    hash: Sha256,
}

impl Content {
    /// Reads to the end of a connection; `came` is told of each piece's length.
    ///
    /// # Panics
    /// When reading fails, or nothing comes within the stream's read timeout.
    pub fn receive(mut stream: impl Read, mut came: impl FnMut(usize)) -> Self {
        let (mut received, mut buffer) = (Self::default(), vec![0; PIECE]);
        loop {
            let length = stream
                .read(&mut buffer)
                .unwrap_or_else(|error| panic!("nothing comes after {} bytes: {error}", received.bytes()));
            if length == 0 {
                return received;
            }
            received.add(&buffer[..length]);
            came(length);
        }
    }

    /// More bytes went.
    pub fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.hash.update(bytes);
    }

    /// The number of bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes && self.hash.clone().finalize() == other.hash.clone().finalize()
    }
}
