//! Segmentation offload, without I/O: what a network card does for the kernel, done for a TUN interface.
//!
//! The kernel gives and takes TCP and UDP in packets of up to 64 KiB behind a [`virtio`] header. [`segment`] cuts what it
//! gives into the packets of the wire, [`coalesce`] merges packets of the wire into what it takes: one system call then
//! carries dozens of packets.

pub mod checksum;
pub mod coalesce;
pub mod segment;
pub mod virtio;

/// Where IP and the transports keep what both directions read and write.
mod layout {
    pub(super) const V4_HEADER: usize = 20;
    pub(super) const V6_HEADER: usize = 40;
    pub(super) const TCP_HEADER: usize = 20;
    pub(super) const UDP_HEADER: usize = 8;

    pub(super) const TCP: u8 = 6;
    pub(super) const UDP: u8 = 17;

    /// Offsets in the TCP header.
    pub(super) const TCP_SEQUENCE: usize = 4;
    pub(super) const TCP_DATA_OFFSET: usize = 12;
    pub(super) const TCP_FLAGS: usize = 13;
    pub(super) const TCP_CHECKSUM: usize = 16;

    /// Offsets in the UDP header.
    pub(super) const UDP_LENGTH: usize = 4;
    pub(super) const UDP_CHECKSUM: usize = 6;

    /// Bits of [`TCP_FLAGS`].
    pub(super) const FIN: u8 = 0x01;
    pub(super) const PSH: u8 = 0x08;
    pub(super) const ACK: u8 = 0x10;
    pub(super) const ECE: u8 = 0x40;
    pub(super) const CWR: u8 = 0x80;

    /// The big-endian word at `at`, which must be inside.
    pub(super) fn word(bytes: &[u8], at: usize) -> u16 {
        u16::from_be_bytes([bytes[at], bytes[at + 1]])
    }

    /// The big-endian double word at `at`, which must be inside.
    pub(super) fn double_word(bytes: &[u8], at: usize) -> u32 {
        u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }

    /// Writes a big-endian word to `at`, which must be inside.
    pub(super) fn put_word(bytes: &mut [u8], at: usize, word: u16) {
        bytes[at..at + 2].copy_from_slice(&word.to_be_bytes());
    }
}

#[cfg(test)]
mod samples;
