//! Endorsement keys as administrators have them in files.

use anyhow::{Context, bail};
use m2m_identity::credential;
use sha2::{Digest, Sha256};
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use crate::ca::hex;

/// The SHA-256 of the public area (`TPMT_PUBLIC`) of the endorsement key in `bytes`, in hexadecimal.
///
/// `bytes` are a `TPM2B_PUBLIC`, or PEM with the public key or the certificate. The latter two do not say by which template
/// the TPM made the key, so there are two: one for the TCG's low-range template (L-1, L-2) and one for the high-range
/// one (H-1, H-2).
///
/// # Errors
/// When it is none of these, or no key that such a template makes.
pub(crate) fn hashes(bytes: &[u8]) -> anyhow::Result<Vec<String>> {
    let expected = "expected a TPM2B_PUBLIC, or PEM with the public key or the certificate of an endorsement key";
    if !bytes.starts_with(b"-----BEGIN ") {
        let name = credential::ek_name(bytes).context(expected)?;
        return Ok(vec![hex(name.get(2..).unwrap_or_default())]);
    }
    let block = pem::parse(bytes).context(expected)?;
    match block.tag() {
        "PUBLIC KEY" => {
            let (_, key) = SubjectPublicKeyInfo::from_der(block.contents()).context(expected)?;
            of_templates(&key)
        }
        "CERTIFICATE" => {
            let (_, certificate) = x509_parser::parse_x509_certificate(block.contents()).context(expected)?;
            of_templates(certificate.public_key())
        }
        tag => bail!("{expected}, found PEM of a {tag}"),
    }
}

/// Authorization policies and attributes of the templates: TCG EK Credential Profile 2.5, annex B.
const LOW_POLICY: [u8; 32] = [
    0x83, 0x71, 0x97, 0x67, 0x44, 0x84, 0xb3, 0xf8, 0x1a, 0x90, 0xcc, 0x8d, 0x46, 0xa5, 0xd7, 0x24, 0xfd, 0x52, 0xd7,
    0x6e, 0x06, 0x52, 0x0b, 0x64, 0xf2, 0xa1, 0xda, 0x1b, 0x33, 0x14, 0x69, 0xaa,
];
const HIGH_POLICY: [u8; 32] = [
    0xca, 0x3d, 0x0a, 0x99, 0xa2, 0xb9, 0x39, 0x06, 0xf7, 0xa3, 0x34, 0x24, 0x14, 0xef, 0xcf, 0xb3, 0xa3, 0x85, 0xd4,
    0x4c, 0xd1, 0xfd, 0x45, 0x90, 0x89, 0xd1, 0x9b, 0x50, 0x71, 0xc0, 0xb7, 0xa0,
];
const LOW_ATTRIBUTES: u32 = 0x0003_00b2;
const HIGH_ATTRIBUTES: u32 = 0x0003_00f2;
/// AES, 128 bits, CFB, and no scheme.
const SYMMETRIC_AND_SCHEME: [u16; 4] = [0x0006, 128, 0x0043, 0x0010];
const ALG_RSA: u16 = 0x0001;
const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECC: u16 = 0x0023;
const CURVE_P256: u16 = 0x0003;

fn of_templates(key: &SubjectPublicKeyInfo<'_>) -> anyhow::Result<Vec<String>> {
    let (algorithm, parameters_and_unique) = match key.parsed().context("the public key")? {
        PublicKey::RSA(rsa) => {
            let modulus: Vec<u8> = rsa.modulus.iter().copied().skip_while(|byte| *byte == 0).collect();
            if modulus.len() != 2048 / 8 || !rsa.try_exponent().is_ok_and(|exponent| exponent == 65_537) {
                bail!("expected an RSA key of 2048 bits with the exponent 65537");
            }
            let mut bytes = 2048u16.to_be_bytes().to_vec();
            // The default exponent is written as 0.
            bytes.extend(0u32.to_be_bytes());
            bytes.extend(sized(&modulus));
            (ALG_RSA, bytes)
        }
        PublicKey::EC(point) => {
            let [0x04, coordinates @ ..] = point.data() else { bail!("expected an uncompressed point") };
            if coordinates.len() != 64 {
                bail!("expected a key on the curve P-256");
            }
            let (x, y) = coordinates.split_at(32);
            let mut bytes = CURVE_P256.to_be_bytes().to_vec();
            bytes.extend(ALG_NULL.to_be_bytes());
            bytes.extend(sized(x));
            bytes.extend(sized(y));
            (ALG_ECC, bytes)
        }
        _ => bail!("expected an RSA key of 2048 bits, or an ECC key on the curve P-256"),
    };
    let area = |attributes: u32, policy: &[u8]| {
        let mut area = algorithm.to_be_bytes().to_vec();
        area.extend(ALG_SHA256.to_be_bytes());
        area.extend(attributes.to_be_bytes());
        area.extend(sized(policy));
        area.extend(SYMMETRIC_AND_SCHEME.iter().flat_map(|word| word.to_be_bytes()));
        area.extend(&parameters_and_unique);
        hex(&Sha256::digest(area))
    };
    Ok(vec![area(LOW_ATTRIBUTES, &LOW_POLICY), area(HIGH_ATTRIBUTES, &HIGH_POLICY)])
}

/// A TPM2B structure: the length as a big-endian 16-bit number before the content, which is short here.
fn sized(bytes: &[u8]) -> Vec<u8> {
    let mut out = (bytes.len() as u16).to_be_bytes().to_vec();
    out.extend_from_slice(bytes);
    out
}
