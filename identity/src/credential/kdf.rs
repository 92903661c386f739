//! The key derivation functions of the TPM 2.0 Library, part 1, section "Key Derivation Functions", with SHA-256.

use aws_lc_rs::{
    digest::{Context, SHA256, SHA256_OUTPUT_LEN},
    hmac::{self, HMAC_SHA256, Key},
};
use zeroize::Zeroizing;

/// KDFa (SP 800-108 in counter mode with HMAC): `N` bytes, at most one digest.
pub(super) fn kdfa<const N: usize>(key: &[u8], label: &[u8], context_u: &[u8], context_v: &[u8]) -> Zeroizing<[u8; N]> {
    const { assert!(N > 0 && N <= SHA256_OUTPUT_LEN) };
    let mut mac = hmac::Context::with_key(&Key::new(HMAC_SHA256, key));
    mac.update(&1u32.to_be_bytes());
    mac.update(label);
    mac.update(&[0]);
    mac.update(context_u);
    mac.update(context_v);
    mac.update(&(8 * N as u32).to_be_bytes());
    first(mac.sign().as_ref())
}

/// KDFe (SP 800-56A): the 256-bit seed from the ECDH secret `z`.
pub(super) fn kdfe(z: &[u8], label: &[u8], party_u: &[u8], party_v: &[u8]) -> Zeroizing<[u8; SHA256_OUTPUT_LEN]> {
    let mut hash = Context::new(&SHA256);
    hash.update(&1u32.to_be_bytes());
    hash.update(z);
    hash.update(label);
    hash.update(&[0]);
    hash.update(party_u);
    hash.update(party_v);
    first(hash.finish().as_ref())
}

fn first<const N: usize>(digest: &[u8]) -> Zeroizing<[u8; N]> {
    let mut out = Zeroizing::new([0; N]);
    for (to, from) in out.iter_mut().zip(digest) {
        *to = *from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Made with Python's hmac and hashlib from the formulas of the specification.
    #[test]
    fn the_functions_agree_with_the_specifications_formulas() {
        let key = [7; 32];
        assert_eq!(hex(kdfa::<16>(&key, b"STORAGE", b"name", b"").as_ref()), "bd0ce59922f760cb045dea72a7f4392b");
        assert_eq!(
            hex(kdfe(&key, b"IDENTITY", b"u", b"v").as_ref()),
            "cbfa0b0b1324ee6ca65772b3d0073f8923100246a5c7d1c5c0e0832156c0390b"
        );
    }
}
