//! Key files of the "ASN.1 Specification for TPM 2.0 Key Files": what tpm2-openssl reads.

use std::fmt;

use der::{
    Decode, Encode, Sequence,
    asn1::{ObjectIdentifier, OctetString, UintRef, Utf8StringRef},
};

use super::TpmError;
use crate::credential::PublicArea;

const LABEL: &str = "TSS2 PRIVATE KEY";
/// id-loadablekey: made by TPM2_Create, loaded by TPM2_Load.
const LOADABLE_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.23.133.10.1.3");
/// TPM_RH_OWNER as the parent stands for the ECC P-256 storage root key of the owner hierarchy.
const OWNER: [u8; 4] = [0x40, 0, 0, 1];

/// Whether `pem` holds a key of a TPM: a block `TSS2 PRIVATE KEY`.
pub fn is_key_file(pem: &str) -> bool {
    pem.contains(&format!("-----BEGIN {LABEL}-----"))
}

/// A key as it is outside of the TPM: the private part is encrypted by its parent.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Material {
    /// A marshalled `TPM2B_PUBLIC`.
    pub(super) public: Vec<u8>,
    /// A marshalled `TPM2B_PRIVATE`.
    pub(super) private: Vec<u8>,
}

impl fmt::Debug for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Material").finish_non_exhaustive()
    }
}

/// The PEM of `material`.
pub(super) fn encode(material: &Material) -> Result<String, TpmError> {
    let malformed = |error: der::Error| TpmError::KeyFile(error.to_string());
    let key = TpmKeyFile {
        kind: LOADABLE_KEY,
        empty_auth: Some(true),
        description: None,
        parent: UintRef::new(&OWNER).map_err(malformed)?,
        public: OctetString::new(material.public.as_slice()).map_err(malformed)?,
        private: OctetString::new(material.private.as_slice()).map_err(malformed)?,
    };
    Ok(pem::encode_config(
        &pem::Pem::new(LABEL, key.to_der().map_err(malformed)?),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    ))
}

/// The key in `pem`: a loadable P-256 signing key without PIN or policy under the ECC storage root key.
pub(super) fn decode(pem: &str) -> Result<Material, TpmError> {
    let malformed = |reason: String| TpmError::KeyFile(reason);
    let blocks = pem::parse_many(pem).map_err(|error| malformed(error.to_string()))?;
    let block =
        blocks.iter().find(|block| block.tag() == LABEL).ok_or_else(|| malformed(format!("no PEM block `{LABEL}`")))?;
    let key = TpmKeyFile::from_der(block.contents())
        .map_err(|error| malformed(format!("not the ASN.1 of a key without policy: {error}")))?;
    if key.kind != LOADABLE_KEY {
        return Err(malformed(format!("its type is {}, expected {LOADABLE_KEY}, a loadable key", key.kind)));
    }
    if key.empty_auth != Some(true) {
        return Err(malformed("it needs a PIN, expected a key without".to_owned()));
    }
    if key.parent.as_bytes() != OWNER {
        return Err(malformed("its parent is not 0x40000001, the owner's storage root key".to_owned()));
    }
    PublicArea::parse(key.public.as_bytes())
        .and_then(|area| area.check_signing())
        .map_err(|error| malformed(format!("the public area: {error}")))?;
    Ok(Material { public: key.public.into_bytes().into_vec(), private: key.private.into_bytes().into_vec() })
}

/// `TPMKey`, without the optional fields that a key without PIN and policy does not have.
#[derive(Sequence)]
struct TpmKeyFile<'a> {
    kind: ObjectIdentifier,
    #[asn1(context_specific = "0", tag_mode = "EXPLICIT", optional = "true")]
    empty_auth: Option<bool>,
    #[asn1(context_specific = "4", tag_mode = "EXPLICIT", optional = "true")]
    description: Option<Utf8StringRef<'a>>,
    parent: UintRef<'a>,
    public: OctetString,
    private: OctetString,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    fn sample() -> Material {
        Material { public: crate::credential::sample_key(), private: vec![0, 3, 1, 2, 3] }
    }

    fn refusal(pem: &str) -> String {
        decode(pem).unwrap_err().to_string()
    }

    fn altered(change: impl FnOnce(&mut TpmKeyFile<'_>)) -> String {
        let pem = encode(&sample()).unwrap();
        let der = pem::parse(&pem).unwrap().into_contents();
        let mut key = TpmKeyFile::from_der(&der).unwrap();
        change(&mut key);
        pem::encode(&pem::Pem::new(LABEL, key.to_der().unwrap()))
    }

    #[test]
    fn what_is_written_is_read_again() {
        let pem = encode(&sample()).unwrap();
        assert!(is_key_file(&pem));
        assert_eq!(decode(&pem).unwrap(), sample());
        let described = altered(|key| key.description = Some(Utf8StringRef::new("TLS").unwrap()));
        assert_eq!(decode(&described).unwrap(), sample());
    }

    #[test]
    fn keys_of_other_kinds_are_refused_with_their_reason() {
        assert!(refusal("").contains(LABEL));
        assert!(refusal(&altered(|key| key.empty_auth = None)).contains("PIN"));
        let importable = ObjectIdentifier::new_unwrap("2.23.133.10.1.4");
        assert!(refusal(&altered(|key| key.kind = importable)).contains("2.23.133.10.1.4"));
        const NULL: [u8; 4] = [0x40, 0, 0, 7];
        assert!(refusal(&altered(|key| key.parent = UintRef::new(&NULL).unwrap())).contains("parent"));
        let nothing = OctetString::new([]).unwrap();
        assert!(refusal(&altered(|key| key.public = nothing)).contains("public area"));
    }

    proptest! {
        #[test]
        fn arbitrary_content_is_refused(der in proptest::collection::vec(any::<u8>(), 0..300)) {
            let pem = pem::encode(&pem::Pem::new(LABEL, der));
            prop_assert!(decode(&pem).is_err());
        }

        #[test]
        fn arbitrary_text_is_refused(text in ".*") {
            prop_assert!(decode(&text).is_err());
        }
    }
}
