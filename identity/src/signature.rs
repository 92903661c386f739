//! Signatures as X.509 and TLS have them.

use der::{Encode, Sequence, asn1::UintRef};

/// `ECDSA-Sig-Value` (RFC 3279, section 2.2.3) of the two numbers, big-endian.
pub(crate) fn ecdsa_der(r: &[u8], s: &[u8]) -> Result<Vec<u8>, der::Error> {
    EcdsaSigValue { r: UintRef::new(r)?, s: UintRef::new(s)? }.to_der()
}

#[derive(Sequence)]
struct EcdsaSigValue<'a> {
    r: UintRef<'a>,
    s: UintRef<'a>,
}
