//! `SubjectPublicKeyInfo` of P-256 keys (RFC 5480).

/// Length of a P-256 coordinate in bytes.
pub(crate) const COORDINATE: usize = 32;

/// DER up to the point: SEQUENCE { SEQUENCE { id-ecPublicKey, secp256r1 }, BIT STRING.
const PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// The SPKI of the uncompressed point `x`, `y`.
pub(crate) fn from_coordinates(x: &[u8; COORDINATE], y: &[u8; COORDINATE]) -> Vec<u8> {
    let mut spki = Vec::with_capacity(PREFIX.len() + 1 + 2 * COORDINATE);
    spki.extend_from_slice(&PREFIX);
    spki.push(0x04);
    spki.extend_from_slice(x);
    spki.extend_from_slice(y);
    spki
}

/// The uncompressed point (0x04 || x || y) within `spki`, if that is a P-256 SPKI.
pub(crate) fn point(spki: &[u8]) -> Option<&[u8]> {
    let point = spki.strip_prefix(&PREFIX)?;
    (point.len() == 1 + 2 * COORDINATE && point.first() == Some(&0x04)).then_some(point)
}
