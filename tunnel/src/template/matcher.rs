//! What the server does with a template.

use super::{IP_PROTOCOL, Part, PathTemplate, TARGET, TemplateError};
use crate::scope::{Scope, ScopeError, Target, parse_ip_protocol};

impl PathTemplate {
    /// Prepares the template for a server.
    ///
    /// # Errors
    /// [`TemplateError::Ambiguous`] when an expression is followed by what could be a part of its value, such as
    /// `{target}{ipproto}`: a client can use such a template, a server cannot.
    pub fn matcher(&self) -> Result<Matcher, TemplateError> {
        for (nth, part) in self.parts.iter().enumerate() {
            let behind = &self.parts[nth + 1..];
            // A query can be left out altogether, then what comes behind it follows at once.
            let until =
                behind.iter().position(|next| !matches!(next, Part::Form(..))).map_or(behind.len(), |at| at + 1);
            if !behind[..until].iter().all(|next| is_told_apart(part, next)) {
                return Err(TemplateError::Ambiguous(part.to_string()));
            }
        }
        Ok(Matcher { template: self.clone() })
    }
}

/// Finds out what a request asks for by its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Matcher {
    template: PathTemplate,
}

impl Default for Matcher {
    /// Of the default template.
    fn default() -> Self {
        Self { template: PathTemplate::default() }
    }
}

impl Matcher {
    /// The template that is matched.
    #[must_use]
    pub const fn template(&self) -> &PathTemplate {
        &self.template
    }

    /// What a request with this `:path` asks for: the values of `target` and `ipproto`, percent-decoded; a variable that
    /// is not there is no limit. Other variables are passed over.
    ///
    /// # Errors
    /// When `path` is no expansion of the template, or has a value that RFC 9484 §4.6 does not allow.
    pub fn scope(&self, path: &str) -> Result<Scope, Mismatch> {
        let mut found = Found::default();
        let mut rest = path;
        for (nth, part) in self.template.parts.iter().enumerate() {
            match part {
                Part::Literal(text) => {
                    rest = match rest.strip_prefix(text.as_str()) {
                        Some(rest) => rest,
                        None if nth == 0 => return Err(Mismatch::Elsewhere),
                        None => return Err(Mismatch::Shape),
                    };
                }
                Part::Simple(names) => rest = take_simple(names, rest, &mut found)?,
                Part::Form(first, names) => rest = take_form(*first, names, rest, &mut found)?,
            }
        }
        match rest {
            "" => found.scope(),
            _ if self.template.parts.len() == 1 => Err(Mismatch::Elsewhere),
            _ => Err(Mismatch::Shape),
        }
    }
}

/// Why a path is not that of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// It is not even the beginning of the template.
    #[error("there is no tunnel here")]
    Elsewhere,
    /// It does not have the template's form.
    #[error("path does not have the form of the template")]
    Shape,
    /// A percent sign without two hexadecimal digits, or what they encode is no UTF-8.
    #[error("{0} is not percent-encoded UTF-8")]
    Encoding(&'static str),
    /// A variable stands in the template more than once and has several values.
    #[error("{0} has several values")]
    Several(&'static str),
    /// A value that is not allowed.
    #[error("{0}")]
    Value(#[from] ScopeError),
}

/// RFC 3986 §2.3
pub(super) const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What an expansion can put in the place of a variable: also the wildcard, which strictly had to be `%2A`, but which the
/// examples of RFC 9484 write as it is.
const fn is_value(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'%' | b'*')
}

/// Whether the end of `part` can be seen where `next` follows it.
fn is_told_apart(part: &Part, next: &Part) -> bool {
    match (part, next) {
        (Part::Literal(_), _) | (_, Part::Form(..)) => true,
        (_, Part::Simple(_)) => false,
        (Part::Simple(names), Part::Literal(text)) => {
            !text.starts_with(|first: char| first.is_ascii() && is_value(first as u8))
                && (names.len() == 1 || !text.starts_with(','))
        }
        (Part::Form(..), Part::Literal(text)) => {
            !text.starts_with(|first: char| first.is_ascii() && (is_value(first as u8) || matches!(first, '?' | '&')))
        }
    }
}

fn take_value(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|byte| !is_value(byte)).unwrap_or(text.len()))
}

fn take_simple<'p>(names: &[String], text: &'p str, found: &mut Found<'p>) -> Result<&'p str, Mismatch> {
    let (first, mut rest) = take_value(text);
    let mut values = vec![first];
    while values.len() < names.len()
        && let Some(behind) = rest.strip_prefix(',')
    {
        let (value, behind) = take_value(behind);
        values.push(value);
        rest = behind;
    }
    let known = || names.iter().filter(|name| matches!(name.as_str(), TARGET | IP_PROTOCOL));
    // Others than those two may have no value, and are left out then.
    let expected: Vec<&String> = if values.len() == names.len() { names.iter().collect() } else { known().collect() };
    if expected.len() != values.len() && !(expected.is_empty() && values == [""]) {
        return Err(Mismatch::Shape);
    }
    for (name, value) in expected.into_iter().zip(values) {
        found.put(name, value)?;
    }
    Ok(rest)
}

fn take_form<'p>(first: char, names: &[String], text: &'p str, found: &mut Found<'p>) -> Result<&'p str, Mismatch> {
    let mut separator = first;
    let mut rest = text;
    for name in names {
        let behind = rest.strip_prefix(separator).and_then(|rest| rest.strip_prefix(name.as_str()));
        let Some(behind) = behind.and_then(|rest| rest.strip_prefix('=')) else {
            continue;
        };
        let (value, behind) = take_value(behind);
        found.put(name, value)?;
        rest = behind;
        separator = '&';
    }
    Ok(rest)
}

/// Values as they stand in the path.
#[derive(Default)]
struct Found<'p> {
    target: Option<&'p str>,
    ip_protocol: Option<&'p str>,
}

impl<'p> Found<'p> {
    fn put(&mut self, name: &str, value: &'p str) -> Result<(), Mismatch> {
        let (name, place) = match name {
            TARGET => (TARGET, &mut self.target),
            IP_PROTOCOL => (IP_PROTOCOL, &mut self.ip_protocol),
            _ => return Ok(()),
        };
        match place.replace(value) {
            Some(earlier) if earlier != value => Err(Mismatch::Several(name)),
            _ => Ok(()),
        }
    }

    fn scope(self) -> Result<Scope, Mismatch> {
        let mut scope = Scope::default();
        if let Some(value) = self.target {
            scope.target = Target::parse(&percent_decode(TARGET, value)?)?;
        }
        if let Some(value) = self.ip_protocol {
            scope.ip_protocol = parse_ip_protocol(&percent_decode(IP_PROTOCOL, value)?)?;
        }
        Ok(scope)
    }
}

fn percent_decode(name: &'static str, text: &str) -> Result<String, Mismatch> {
    let bad = || Mismatch::Encoding(name);
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    let digit = |rest: &mut std::str::Bytes<'_>| rest.next().and_then(|byte| char::from(byte).to_digit(16));
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let high = digit(&mut rest).ok_or_else(bad)?;
        let low = digit(&mut rest).ok_or_else(bad)?;
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).map_err(|_| bad())
}
