use sha2::{Digest, Sha256};

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
