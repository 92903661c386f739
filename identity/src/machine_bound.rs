//! A software key that opens on one machine only: encrypted with a key that is derived from facts about its hardware.
//!
//! A fact is the content of a file, such as a serial number below `/sys`. One fact may change, a network card for example. Whoever has the
//! machine, or knows all its facts but one, has the key: this keeps a copied disk from working elsewhere and nothing more.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{KeyError, PemKey};

/// With fewer facts, one that may change would leave too little.
pub const LEAST_FACTS: usize = 3;
/// Each fact costs the time of one derivation.
pub const MOST_FACTS: usize = 16;

/// What deriving a key costs: the least that OWASP recommends for Argon2id (RFC 9106), for small machines.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
/// More is not believed of a file.
const MOST_MEMORY_KIB: u32 = 1024 * 1024;
const MOST_PASSES: u32 = 16;

const SALT: usize = 16;
const KEY: usize = 32;

/// Encrypts the first private key in `pem` with the facts in these files; what is returned is the content of a file for
/// [`open`].
///
/// # Errors
/// [`MachineBoundError`] when there are too few or too many facts, one cannot be read or is empty, or the key is none.
pub fn seal(pem: &str, facts: &[PathBuf]) -> Result<String, MachineBoundError> {
    if !(LEAST_FACTS..=MOST_FACTS).contains(&facts.len()) {
        return Err(MachineBoundError::NumberOfFacts(facts.len()));
    }
    PemKey::from_pem(pem)?;
    let values: Vec<Value> = facts.iter().map(|path| read(path)).collect::<Result<_, _>>()?;
    let (mut salt, mut data_key) = ([0; SALT], Zeroizing::new([0; KEY]));
    for bytes in [&mut salt[..], &mut data_key[..]] {
        aws_lc_rs::rand::fill(bytes).map_err(|_| MachineBoundError::Crypto)?;
    }
    let cost = Cost { memory_kib: MEMORY_KIB, passes: PASSES };
    let mut sealed = Sealed {
        version: 1,
        cost,
        salt: STANDARD.encode(salt),
        facts: Vec::new(),
        keys: Vec::new(),
        key: String::new(),
    };
    for (path, value) in facts.iter().zip(&values) {
        let path = path
            .to_str()
            .ok_or_else(|| MachineBoundError::Fact { path: path.clone(), reason: "its name is no UTF-8".into() })?;
        sealed.facts.push(Fact { path: path.into(), check: check(path, value, &salt, cost)? });
    }
    for left_out in 0..facts.len() {
        let key = derive(&sealed.facts, &values, left_out, &salt, cost)?;
        sealed.keys.push(encrypt(&key, &data_key[..])?);
    }
    sealed.key = encrypt(&data_key, pem.as_bytes())?;
    serde_json::to_string_pretty(&sealed).map_err(|error| MachineBoundError::Malformed(error.to_string()))
}

/// Decrypts what [`seal`] made, on the machine that it was made on; one of its facts may be another, or gone.
///
/// # Errors
/// [`MachineBoundError::OtherMachine`] names the facts that differ.
pub fn open(content: &str) -> Result<PemKey, MachineBoundError> {
    let malformed = |reason: &str| MachineBoundError::Malformed(reason.to_owned());
    let sealed: Sealed = serde_json::from_str(content).map_err(|error| malformed(&error.to_string()))?;
    let Sealed { version: 1, cost, salt, facts, keys, key } = sealed else {
        return Err(malformed("expected version 1"));
    };
    let salt: [u8; SALT] = STANDARD
        .decode(salt)
        .ok()
        .and_then(|salt| salt.try_into().ok())
        .ok_or_else(|| malformed("salt: expected 16 bytes"))?;
    if cost.memory_kib > MOST_MEMORY_KIB || cost.passes > MOST_PASSES {
        return Err(malformed("cost: too high"));
    }
    if !(LEAST_FACTS..=MOST_FACTS).contains(&facts.len()) || keys.len() != facts.len() {
        return Err(malformed("facts: expected 3 to 16, and a key for each"));
    }
    let mut differing = Vec::new();
    let mut values = Vec::new();
    for (index, fact) in facts.iter().enumerate() {
        let value = read(Path::new(&fact.path)).unwrap_or_default();
        if check(&fact.path, &value, &salt, cost)? != fact.check {
            differing.push(index);
        }
        values.push(value);
    }
    let left_out = match differing.as_slice() {
        [] => 0,
        [one] => *one,
        several => {
            return Err(MachineBoundError::OtherMachine(
                several.iter().map(|index| facts[*index].path.clone()).collect(),
            ));
        }
    };
    let derived = derive(&facts, &values, left_out, &salt, cost)?;
    let data_key = decrypt(&derived, &keys[left_out]).ok_or(MachineBoundError::Damaged)?;
    let data_key = <&[u8; KEY]>::try_from(&data_key[..]).map_err(|_| MachineBoundError::Damaged)?;
    let pem = decrypt(data_key, &key).ok_or(MachineBoundError::Damaged)?;
    let pem = std::str::from_utf8(&pem).map_err(|_| MachineBoundError::Damaged)?;
    Ok(PemKey::from_pem(pem)?)
}

type Value = Zeroizing<Vec<u8>>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sealed {
    version: u32,
    cost: Cost,
    salt: String,
    facts: Vec<Fact>,
    /// The key of `key`, encrypted with all facts but the one at its place.
    keys: Vec<String>,
    /// The private key, PEM, encrypted.
    key: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Cost {
    memory_kib: u32,
    passes: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fact {
    path: String,
    /// Tells which fact differs, and too little to guess it by.
    check: u16,
}

fn read(path: &Path) -> Result<Value, MachineBoundError> {
    let failed = |reason: String| MachineBoundError::Fact { path: path.to_owned(), reason };
    let content = Zeroizing::new(fs::read(path).map_err(|error| failed(error.to_string()))?);
    let value = content.trim_ascii_end();
    if value.is_empty() {
        return Err(failed("it is empty".into()));
    }
    Ok(Zeroizing::new(value.to_vec()))
}

fn check(path: &str, value: &Value, salt: &[u8], cost: Cost) -> Result<u16, MachineBoundError> {
    let key = argon2id(&input([(path, value)]), b"check", salt, cost)?;
    Ok(u16::from_be_bytes([key[0], key[1]]))
}

/// From all facts but one.
fn derive(
    facts: &[Fact],
    values: &[Value],
    left_out: usize,
    salt: &[u8],
    cost: Cost,
) -> Result<Zeroizing<[u8; KEY]>, MachineBoundError> {
    let others = facts.iter().zip(values).enumerate().filter(|(index, _)| *index != left_out);
    let input = input(others.map(|(_, (fact, value))| (fact.path.as_str(), value)));
    argon2id(&input, format!("without {left_out}").as_bytes(), salt, cost)
}

/// Each with its length, so that nothing can move from one to the next.
fn input<'f>(facts: impl IntoIterator<Item = (&'f str, &'f Value)>) -> Value {
    let mut input = Zeroizing::new(Vec::new());
    for (path, value) in facts {
        for part in [path.as_bytes(), &value[..]] {
            input.extend_from_slice(&(part.len() as u64).to_be_bytes());
            input.extend_from_slice(part);
        }
    }
    input
}

fn argon2id(input: &[u8], purpose: &[u8], salt: &[u8], cost: Cost) -> Result<Zeroizing<[u8; KEY]>, MachineBoundError> {
    let params = Params::new(cost.memory_kib, cost.passes, 1, Some(KEY));
    let params = params.map_err(|error| MachineBoundError::Malformed(format!("cost: {error}")))?;
    let mut key = Zeroizing::new([0; KEY]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(input, &[salt, purpose].concat(), &mut key[..])
        .map_err(|_| MachineBoundError::Crypto)?;
    Ok(key)
}

/// AES-256-GCM: nonce, ciphertext and tag, in Base64.
fn encrypt(key: &[u8; KEY], content: &[u8]) -> Result<String, MachineBoundError> {
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).map_err(|_| MachineBoundError::Crypto)?;
    let mut buffer = content.to_vec();
    let nonce = key.seal_in_place_append_tag(Aad::empty(), &mut buffer).map_err(|_| MachineBoundError::Crypto)?;
    Ok(STANDARD.encode([&nonce.as_ref()[..], &buffer].concat()))
}

fn decrypt(key: &[u8; KEY], text: &str) -> Option<Value> {
    let sealed = STANDARD.decode(text).ok()?;
    let (nonce, content) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, key).ok()?;
    let mut buffer = Zeroizing::new(content.to_vec());
    let length = key.open_in_place(Nonce::from(nonce), Aad::empty(), &mut buffer).ok()?.len();
    buffer.truncate(length);
    Some(buffer)
}

/// Why a key cannot be bound, or not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MachineBoundError {
    /// Too few or too many.
    #[error("expected {LEAST_FACTS} to {MOST_FACTS} facts, found {0}")]
    NumberOfFacts(usize),
    /// A fact cannot be read.
    #[error("{}: {reason}", path.display())]
    Fact {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The file is none.
    #[error("no machine-bound key: {0}")]
    Malformed(String),
    /// More than one fact differs.
    #[error("the key belongs to another machine: {} differ", List(.0))]
    OtherMachine(Vec<String>),
    /// The facts are right and the rest is not.
    #[error("the machine-bound key is damaged")]
    Damaged,
    /// The cryptographic library failed.
    #[error("the key could not be derived or encrypted")]
    Crypto,
    /// There is no usable private key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

struct List<'l>(&'l [String]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::DeviceKey;

    const NAMES: [&str; 4] = ["uuid", "board", "soc", "mac"];

    struct Machine {
        directory: tempfile::TempDir,
        key: PemKey,
        content: String,
    }

    impl Machine {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            for name in NAMES {
                fs::write(directory.path().join(name), format!("{name} of this machine\n")).unwrap();
            }
            let key = PemKey::generate().unwrap();
            let facts: Vec<PathBuf> = NAMES.iter().map(|name| directory.path().join(name)).collect();
            let content = seal(&key.to_pem().unwrap(), &facts).unwrap();
            Self { directory, key, content }
        }

        fn change(&self, name: &str) {
            fs::write(self.directory.path().join(name), "another").unwrap();
        }

        fn opens(&self) -> bool {
            open(&self.content).is_ok_and(|key| key.spki_der() == self.key.spki_der())
        }
    }

    #[test]
    fn it_opens_where_it_was_made() {
        let machine = Machine::new();
        assert!(machine.opens());
        assert!(!machine.content.contains("of this machine"));
        assert!(!machine.content.contains("PRIVATE"));
    }

    #[test]
    fn any_one_fact_may_change_or_go() {
        for name in NAMES {
            let machine = Machine::new();
            machine.change(name);
            assert!(machine.opens(), "{name}");
            fs::remove_file(machine.directory.path().join(name)).unwrap();
            assert!(machine.opens(), "{name}");
        }
    }

    #[test]
    fn elsewhere_it_says_what_differs() {
        let machine = Machine::new();
        machine.change("uuid");
        machine.change("mac");
        let error = open(&machine.content).unwrap_err();
        let MachineBoundError::OtherMachine(facts) = &error else { panic!("{error}") };
        assert_eq!(facts.len(), 2);
        assert!(facts[0].ends_with("/uuid") && facts[1].ends_with("/mac"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_said() {
        let machine = Machine::new();
        let pem = machine.key.to_pem().unwrap();
        let fact = |name: &str| machine.directory.path().join(name);
        let few = seal(&pem, &[fact("uuid"), fact("mac")]).unwrap_err();
        assert!(matches!(few, MachineBoundError::NumberOfFacts(2)), "{few}");
        let missing = seal(&pem, &[fact("uuid"), fact("mac"), fact("none")]).unwrap_err();
        assert!(missing.to_string().contains("/none"), "{missing}");
        let no_key = seal("", &[fact("uuid"), fact("mac"), fact("soc")]).unwrap_err();
        assert!(matches!(no_key, MachineBoundError::Key(KeyError::Missing)), "{no_key}");
        assert!(matches!(open("{}"), Err(MachineBoundError::Malformed(_))));
        let costly = machine.content.replace("19456", "999999999");
        assert!(matches!(open(&costly), Err(MachineBoundError::Malformed(_))));
        let mut damaged: serde_json::Value = serde_json::from_str(&machine.content).unwrap();
        damaged["key"] = damaged["keys"][0].clone();
        assert!(matches!(open(&damaged.to_string()), Err(MachineBoundError::Damaged)));
    }
}
