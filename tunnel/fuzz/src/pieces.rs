//! A stream's bytes as they may arrive.

/// `bytes` in pieces whose sizes follow from `seed`: of one byte each for 0, otherwise of up to `seed` bytes.
pub fn split(seed: u8, bytes: &[u8]) -> Vec<&[u8]> {
    let mut sizes = u32::from(seed);
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        // Numerical Recipes' generator: any would do.
        sizes = sizes.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let size = 1 + (sizes >> 16) as usize % usize::from(seed.max(1));
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        pieces.push(piece);
        rest = behind;
    }
    pieces
}

/// Whether `input` is one of those, one in 64, that are worth what takes long.
pub fn is_chosen(input: &[u8]) -> bool {
    let hash = input
        .iter()
        .fold(0u32, |hash, byte| hash.rotate_left(5).wrapping_add(u32::from(*byte)).wrapping_mul(0x9e37_79b9));
    hash >> 26 == 0
}

/// `bytes` again and again, until that is `total` bytes, in pieces of 1 KiB or more.
pub fn endless(bytes: &[u8], total: usize) -> impl Iterator<Item = Vec<u8>> {
    let piece = if bytes.is_empty() { Vec::new() } else { bytes.repeat(1024usize.div_ceil(bytes.len())) };
    let times = if piece.is_empty() { 0 } else { total.div_ceil(piece.len()) };
    std::iter::repeat_n(piece, times)
}
