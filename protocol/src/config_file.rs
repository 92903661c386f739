//! Loading a TOML file so that a wrong one says what to mend.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use toml::Spanned;
use toml::de::DeTable;

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
    let invalid = |offset: Option<usize>, field: String, problem: &str| {
        ConfigFileError::Invalid(Invalid {
            file: path.to_owned(),
            line: offset.map(|offset| line_of(text, offset)),
            field,
            problem: problem.to_owned(),
        })
    };
    let document = DeTable::parse(text)
        .map_err(|error| invalid(error.span().map(|span| span.start), String::new(), error.message()))?;
    serde_path_to_error::deserialize(toml::Deserializer::from(document.clone())).map_err(|error| {
        let field = error.path();
        let span = error.inner().span().map(|span| span.start);
        // A list's own check fails with the span of the whole list; the path knows the entry.
        let offset = match field.iter().next_back() {
            Some(Segment::Seq { .. }) => start_of(&document, field).or(span),
            _ => span,
        };
        invalid(offset, field.to_string(), error.inner().message())
    })
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

/// Where the value at `field` begins in the text.
fn start_of(document: &Spanned<DeTable<'_>>, field: &serde_path_to_error::Path) -> Option<usize> {
    let mut segments = field.iter();
    let Some(Segment::Map { key }) = segments.next() else { return None };
    let mut value = document.get_ref().get(key.as_str())?;
    for segment in segments {
        value = match segment {
            Segment::Map { key } => value.get_ref().get(key.as_str())?,
            Segment::Seq { index } => value.get_ref().get(*index)?,
            Segment::Enum { .. } | Segment::Unknown => return None,
        };
    }
    Some(value.span().start)
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}
