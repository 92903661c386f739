use serde::{Deserialize, Serialize};

/// The schema version of a document, which is always 1 today.
///
/// Deserializing any other number fails with a sentence that says so: a document of the future is refused, never
/// half understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Version1;

impl TryFrom<u32> for Version1 {
    type Error = String;

    fn try_from(version: u32) -> Result<Self, Self::Error> {
        match version {
            1 => Ok(Self),
            other => Err(format!("expected version 1, found {other}; this program is older than the document")),
        }
    }
}

impl From<Version1> for u32 {
    fn from(_: Version1) -> Self {
        1
    }
}
