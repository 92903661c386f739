//! Loading a TOML file so that a wrong one says what to mend.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

/// Reads and validates the file at `path`.
///
/// # Errors
/// [`ConfigFileError`], whose text names the file and, for wrong content, line, field and what was expected.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<T, ConfigFileError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigFileError::Unreadable { file: path.to_owned(), source })?;
    parse(path, &text)
}

/// Validates `text` as the content of the file `path`, which is named in errors and not read.
///
/// # Errors
/// [`ConfigFileError::Invalid`].
pub fn parse<T: DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigFileError> {
    let invalid = |field: String, error: &toml::de::Error| {
        ConfigFileError::Invalid(Invalid {
            file: path.to_owned(),
            line: error.span().map(|span| line_of(text, span.start)),
            field,
            problem: error.message().to_owned(),
        })
    };
    let document = toml::Deserializer::parse(text).map_err(|error| invalid(String::new(), &error))?;
    serde_path_to_error::deserialize(document).map_err(|error| invalid(error.path().to_string(), error.inner()))
}

/// Why a configuration file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// The file is missing or cannot be read.
    #[error("{}: cannot be read: {source}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The file's content is wrong.
    #[error(transparent)]
    Invalid(Invalid),
}

/// A mistake in a configuration file. Its text never quotes the file, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The file.
    pub file: PathBuf,
    /// The line of the mistake, counted from 1, where it is known.
    pub line: Option<usize>,
    /// The path of the field, such as `uplink[1].method`; empty where the file is not TOML at all.
    pub field: String,
    /// What was expected, and what was found where that is no secret.
    pub problem: String,
}

impl std::error::Error for Invalid {}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if !self.field.is_empty() && self.field != "." {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.problem)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
