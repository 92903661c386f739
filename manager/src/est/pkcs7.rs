//! The degenerate CMS `SignedData` that carries certificates and nothing else (RFC 5652 section 5.2, "certs-only").

use rustls_pki_types::CertificateDer;

/// `id-signedData`, 1.2.840.113549.1.7.2.
const SIGNED_DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
/// `id-data`, 1.2.840.113549.1.7.1.
const DATA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const VERSION_1: &[u8] = &[0x02, 0x01, 0x01];

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
/// Context-specific, constructed, number 0.
const CONTEXT_0: u8 = 0xa0;

/// `certificates` as DER of a `ContentInfo`.
pub(super) fn certificates_only(certificates: &[&CertificateDer<'_>]) -> Vec<u8> {
    let mut sorted: Vec<&[u8]> = certificates.iter().map(|certificate| certificate.as_ref()).collect();
    // DER wants the elements of a SET OF in order (X.690 section 11.6).
    sorted.sort_unstable();
    let signed_data = element(
        SEQUENCE,
        &[VERSION_1, &element(SET, &[]), &element(SEQUENCE, &[DATA]), &element(CONTEXT_0, &sorted), &element(SET, &[])],
    );
    element(SEQUENCE, &[SIGNED_DATA, &element(CONTEXT_0, &[&signed_data])])
}

/// Tag, length (X.690 section 10.1) and content.
fn element(tag: u8, content: &[&[u8]]) -> Vec<u8> {
    let content = content.concat();
    let mut out = vec![tag];
    match u8::try_from(content.len()) {
        Ok(length) if length < 0x80 => out.push(length),
        _ => {
            let length = content.len().to_be_bytes();
            let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
            // At most 8 bytes.
            out.push(0x80 | length.len() as u8);
            out.extend_from_slice(length);
        }
    }
    out.extend(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_minimal() {
        assert_eq!(element(SET, &[]), [0x31, 0]);
        assert_eq!(element(SET, &[&[0; 127]])[..2], [0x31, 127]);
        assert_eq!(element(SET, &[&[0; 128]])[..3], [0x31, 0x81, 128]);
        assert_eq!(element(SET, &[&[0; 256]])[..4], [0x31, 0x82, 1, 0]);
    }
}
