//! A reader of `TPM2B_PUBLIC` (TPM 2.0 Library, part 2, section 12.2) that believes nothing.

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

use crate::spki::{self, COORDINATE};

const ALG_RSA: u16 = 0x0001;
const ALG_AES: u16 = 0x0006;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_RSAES: u16 = 0x0015;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECDAA: u16 = 0x001a;
const ALG_ECC: u16 = 0x0023;
const ALG_CFB: u16 = 0x0043;
const CURVE_P256: u16 = 0x0003;
/// What an exponent of 0 stands for.
const DEFAULT_EXPONENT: u32 = 65_537;

/// The attributes that a key made inside a TPM, never to leave it, has: TPMA_OBJECT's bits.
const BOUND: [(u32, &str); 3] = [(1 << 1, "fixedTPM"), (1 << 4, "fixedParent"), (1 << 5, "sensitiveDataOrigin")];
const RESTRICTED: (u32, &str) = (1 << 16, "restricted");
const DECRYPT: (u32, &str) = (1 << 17, "decrypt");
const SIGN: (u32, &str) = (1 << 18, "sign");

/// What is wrong with a public area.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublicAreaError {
    /// The structure ends within the field.
    #[error("it ends within `{0}`")]
    Truncated(&'static str),
    /// Bytes follow the structure, or its length field does not count what follows.
    #[error("its length field does not match its length")]
    Length,
    /// A field has a value other than the one demanded.
    #[error("`{field}` is {found:#06x}, expected {expected}")]
    Field {
        /// The field's name in the specification.
        field: &'static str,
        /// What it holds.
        found: u32,
        /// What it should hold.
        expected: &'static str,
    },
    /// An attribute should be set.
    #[error("the attribute `{0}` is not set")]
    NotSet(&'static str),
    /// An attribute should not be set.
    #[error("the attribute `{0}` is set")]
    Set(&'static str),
    /// A coordinate or modulus does not have the length that the key size demands.
    #[error("`{0}` has a wrong length")]
    KeyLength(&'static str),
}

use PublicAreaError::{Field, KeyLength, Length, NotSet, Set, Truncated};

/// A parsed public area: RSA, or ECC on P-256.
#[derive(Debug)]
pub(crate) struct PublicArea<'a> {
    /// The marshalled `TPMT_PUBLIC`, over which the Name is computed.
    area: &'a [u8],
    name_algorithm: u16,
    attributes: u32,
    symmetric: Option<[u16; 3]>,
    scheme: u16,
    scheme_hash: Option<u16>,
    unique: Unique<'a>,
}

/// The public key itself.
#[derive(Debug)]
pub(crate) enum Unique<'a> {
    /// Modulus without leading zeros, and the exponent.
    Rsa { modulus: &'a [u8], exponent: u32 },
    /// The coordinates of a point, not yet known to be on the curve.
    P256 { x: [u8; COORDINATE], y: [u8; COORDINATE] },
}

impl<'a> PublicArea<'a> {
    /// Parses `bytes`, a `TPM2B_PUBLIC` with nothing behind it.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, PublicAreaError> {
        let mut outer = Reader(bytes);
        let area = outer.sized("size")?;
        if !outer.0.is_empty() {
            return Err(Length);
        }
        let mut reader = Reader(area);
        let kind = reader.u16("type")?;
        let name_algorithm = reader.u16("nameAlg")?;
        let attributes = reader.u32("objectAttributes")?;
        reader.sized("authPolicy")?;
        let symmetric = reader.symmetric()?;
        let scheme = reader.u16("scheme")?;
        let scheme_hash = match scheme {
            ALG_NULL | ALG_RSAES => None,
            _ => Some(reader.u16("scheme.details.hashAlg")?),
        };
        let unique = match kind {
            ALG_RSA => reader.rsa()?,
            ALG_ECC => {
                if scheme == ALG_ECDAA {
                    reader.u16("scheme.details.count")?;
                }
                reader.ecc()?
            }
            found => return Err(unexpected("type", found, "TPM_ALG_RSA or TPM_ALG_ECC")),
        };
        if !reader.0.is_empty() {
            return Err(Length);
        }
        let area = Self { area, name_algorithm, attributes, symmetric, scheme, scheme_hash, unique };
        // Nothing else is used in this product, and the Name could not be computed.
        area.expect("nameAlg", area.name_algorithm, ALG_SHA256, "TPM_ALG_SHA256")?;
        Ok(area)
    }

    /// The Name: algorithm and digest.
    pub(crate) fn name(&self) -> [u8; 2 + SHA256_OUTPUT_LEN] {
        let mut name = [0; 2 + SHA256_OUTPUT_LEN];
        let (algorithm, hash) = name.split_at_mut(2);
        algorithm.copy_from_slice(&self.name_algorithm.to_be_bytes());
        hash.copy_from_slice(digest(&SHA256, self.area).as_ref());
        name
    }

    /// The public key.
    pub(crate) fn unique(&self) -> &Unique<'a> {
        &self.unique
    }

    /// The SPKI of a P-256 key.
    pub(crate) fn p256_spki(&self) -> Result<Vec<u8>, PublicAreaError> {
        match &self.unique {
            Unique::P256 { x, y } => Ok(spki::from_coordinates(x, y)),
            Unique::Rsa { .. } => Err(unexpected("type", ALG_RSA, "TPM_ALG_ECC")),
        }
    }

    /// Demands a restricted decryption key bound to its TPM, as the EK templates L-1 and L-2 make it.
    pub(crate) fn check_endorsement(&self) -> Result<(), PublicAreaError> {
        self.check_attributes(&[RESTRICTED, DECRYPT], &[SIGN])?;
        let [algorithm, bits, mode] = self.symmetric.unwrap_or([ALG_NULL, 0, 0]);
        self.expect("symmetric.algorithm", algorithm, ALG_AES, "TPM_ALG_AES")?;
        self.expect("symmetric.keyBits", bits, 128, "128")?;
        self.expect("symmetric.mode", mode, ALG_CFB, "TPM_ALG_CFB")?;
        if let Unique::Rsa { modulus, .. } = &self.unique
            && !(2048 / 8..=4096 / 8).contains(&modulus.len())
        {
            return Err(KeyLength("unique.rsa"));
        }
        Ok(())
    }

    /// Demands an unrestricted ECDSA P-256 signing key bound to its TPM.
    pub(crate) fn check_signing(&self) -> Result<(), PublicAreaError> {
        self.check_attributes(&[SIGN], &[DECRYPT, RESTRICTED])?;
        self.p256_spki()?;
        match (self.scheme, self.scheme_hash) {
            (ALG_NULL, _) | (ALG_ECDSA, Some(ALG_SHA256)) => Ok(()),
            (ALG_ECDSA, hash) => Err(unexpected("scheme.details.hashAlg", hash.unwrap_or(ALG_NULL), "TPM_ALG_SHA256")),
            (scheme, _) => Err(unexpected("scheme", scheme, "TPM_ALG_NULL or TPM_ALG_ECDSA")),
        }
    }

    fn check_attributes(
        &self,
        set: &[(u32, &'static str)],
        clear: &[(u32, &'static str)],
    ) -> Result<(), PublicAreaError> {
        for (bit, name) in BOUND.iter().chain(set) {
            if self.attributes & bit == 0 {
                return Err(NotSet(name));
            }
        }
        for (bit, name) in clear {
            if self.attributes & bit != 0 {
                return Err(Set(name));
            }
        }
        Ok(())
    }

    fn expect(
        &self,
        field: &'static str,
        found: u16,
        wanted: u16,
        expected: &'static str,
    ) -> Result<(), PublicAreaError> {
        if found == wanted {
            return Ok(());
        }
        Err(unexpected(field, found, expected))
    }
}

fn unexpected(field: &'static str, found: u16, expected: &'static str) -> PublicAreaError {
    Field { field, found: found.into(), expected }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], PublicAreaError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Truncated(field))?;
        self.0 = rest;
        Ok(taken)
    }

    fn u16(&mut self, field: &'static str) -> Result<u16, PublicAreaError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Truncated(field))?;
        self.0 = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, PublicAreaError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Truncated(field))?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    fn sized(&mut self, field: &'static str) -> Result<&'a [u8], PublicAreaError> {
        let length = self.u16(field)?;
        self.take(length.into(), field)
    }

    /// `TPMT_SYM_DEF_OBJECT`: algorithm, key bits, mode.
    fn symmetric(&mut self) -> Result<Option<[u16; 3]>, PublicAreaError> {
        let algorithm = self.u16("symmetric.algorithm")?;
        if algorithm == ALG_NULL {
            return Ok(None);
        }
        Ok(Some([algorithm, self.u16("symmetric.keyBits")?, self.u16("symmetric.mode")?]))
    }

    fn rsa(&mut self) -> Result<Unique<'a>, PublicAreaError> {
        let bits = self.u16("keyBits")?;
        let exponent = match self.u32("exponent")? {
            0 => DEFAULT_EXPONENT,
            exponent => exponent,
        };
        let modulus = self.sized("unique.rsa")?;
        // A modulus of n bits has its highest bit set.
        if modulus.len() * 8 != usize::from(bits) || modulus.first().is_none_or(|top| top < &0x80) {
            return Err(KeyLength("unique.rsa"));
        }
        Ok(Unique::Rsa { modulus, exponent })
    }

    fn ecc(&mut self) -> Result<Unique<'a>, PublicAreaError> {
        let curve = self.u16("curveID")?;
        if self.u16("kdf.scheme")? != ALG_NULL {
            self.u16("kdf.details.hashAlg")?;
        }
        let x = self.coordinate("unique.ecc.x")?;
        let y = self.coordinate("unique.ecc.y")?;
        if curve != CURVE_P256 {
            return Err(unexpected("curveID", curve, "TPM_ECC_NIST_P256"));
        }
        Ok(Unique::P256 { x, y })
    }

    /// A coordinate, padded on the left: some TPMs leave out leading zeros.
    fn coordinate(&mut self, field: &'static str) -> Result<[u8; COORDINATE], PublicAreaError> {
        let bytes = self.sized(field)?;
        let mut coordinate = [0; COORDINATE];
        let Some(start) = COORDINATE.checked_sub(bytes.len()) else {
            return Err(KeyLength(field));
        };
        coordinate[start..].copy_from_slice(bytes);
        Ok(coordinate)
    }
}

/// Public areas as TPMs make them, to be changed by tests.
#[cfg(test)]
pub(super) mod samples {
    #![allow(clippy::unwrap_used)]

    use std::sync::LazyLock;

    use aws_lc_rs::{
        encoding::{AsDer, PublicKeyX509Der},
        rsa::{KeySize, PrivateDecryptingKey},
    };

    use crate::{DeviceKey, PemKey};

    /// The fields of a public area.
    pub(in super::super) struct Area {
        pub(in super::super) name_algorithm: u16,
        pub(in super::super) attributes: u32,
        pub(in super::super) symmetric: Vec<u8>,
        pub(in super::super) scheme: Vec<u8>,
        pub(in super::super) curve: u16,
        /// x and y; for RSA the modulus.
        pub(in super::super) point: Vec<u8>,
        rsa: bool,
    }

    impl Area {
        pub(in super::super) fn bytes(&self) -> Vec<u8> {
            let mut area = Vec::new();
            area.extend(if self.rsa { [0, 1] } else { [0, 0x23] });
            area.extend(self.name_algorithm.to_be_bytes());
            area.extend(self.attributes.to_be_bytes());
            area.extend([0, 0]);
            area.extend(&self.symmetric);
            area.extend(&self.scheme);
            if self.rsa {
                area.extend([8, 0, 0, 0, 0, 0, 1, 0]);
                area.extend(&self.point);
            } else {
                area.extend(self.curve.to_be_bytes());
                area.extend([0, 0x10]);
                for coordinate in self.point.chunks(32) {
                    area.extend([0, 32]);
                    area.extend(coordinate);
                }
            }
            let length = u16::try_from(area.len()).unwrap();
            [&length.to_be_bytes()[..], &area].concat()
        }
    }

    pub(in super::super) fn key() -> Area {
        Area {
            name_algorithm: 0x0b,
            attributes: 0x0004_0472,
            symmetric: vec![0, 0x10],
            scheme: vec![0, 0x18, 0, 0x0b],
            curve: 3,
            point: PemKey::generate().unwrap().spki_der()[27..].to_vec(),
            rsa: false,
        }
    }

    pub(in super::super) fn ecc_ek() -> Area {
        Area { attributes: 0x0003_00b2, symmetric: vec![0, 6, 0, 128, 0, 0x43], scheme: vec![0, 0x10], ..key() }
    }

    pub(in super::super) fn rsa_ek() -> Area {
        static MODULUS: LazyLock<Vec<u8>> = LazyLock::new(rsa_modulus);
        Area { rsa: true, point: MODULUS.clone(), ..ecc_ek() }
    }

    fn rsa_modulus() -> Vec<u8> {
        let key = PrivateDecryptingKey::generate(KeySize::Rsa2048).unwrap().public_key();
        let der: PublicKeyX509Der<'_> = key.as_der().unwrap();
        // Behind the modulus is the exponent 65537, and nothing else.
        let (before_exponent, _) = der.as_ref().split_at(der.as_ref().len() - 5);
        before_exponent[before_exponent.len() - 256..].to_vec()
    }
}
