//! What the client does with a template.

use super::{IP_PROTOCOL, Part, PathTemplate, TARGET};
use crate::scope::{Scope, ScopeError, Target, WILDCARD};

impl PathTemplate {
    /// The `:path` of a request for `scope` (RFC 9484 §4). What is not limited is the wildcard in `{target}`, and left out
    /// in `{?target}`, both as in the examples of RFC 9484; other variables than `target` and `ipproto` have no value.
    ///
    /// # Errors
    /// When the template lacks the variable for a limit, or the target is a name that is none.
    pub fn expand(&self, scope: &Scope) -> Result<String, ExpandError> {
        let values =
            Values { target: target(&scope.target)?, ip_protocol: scope.ip_protocol.map(|one| one.to_string()) };
        for (variable, value) in [(TARGET, &values.target), (IP_PROTOCOL, &values.ip_protocol)] {
            let Some(value) = value else { continue };
            if !self.parts.iter().any(|part| part.names().iter().any(|name| name == variable)) {
                return Err(ExpandError::Variable { variable, value: value.clone() });
            }
        }
        let mut path = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => path.push_str(text),
                Part::Simple(names) => {
                    let values: Vec<String> = names.iter().filter_map(|name| values.simple(name)).collect();
                    path.push_str(&values.join(","));
                }
                Part::Form(first, names) => {
                    let mut separator = *first;
                    for (name, value) in names.iter().filter_map(|name| Some((name, values.form(name)?))) {
                        path.push(separator);
                        path.push_str(name);
                        path.push('=');
                        path.push_str(&value);
                        separator = '&';
                    }
                }
            }
        }
        Ok(path)
    }
}

/// Why a template cannot say what a tunnel is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// The template has no place for a limit.
    #[error("the gateway's template has no variable {variable}, so the tunnel cannot be limited to {value}")]
    Variable {
        /// The variable that is missing.
        variable: &'static str,
        /// Its value.
        value: String,
    },
    /// The target's name is empty, or not a name.
    #[error("{name:?} is no name: {reason}")]
    Name {
        /// The name.
        name: String,
        /// What is wrong with it.
        reason: ScopeError,
    },
}

struct Values {
    target: Option<String>,
    ip_protocol: Option<String>,
}

impl Values {
    fn simple(&self, name: &str) -> Option<String> {
        let is_known = matches!(name, TARGET | IP_PROTOCOL);
        self.form(name).or_else(|| is_known.then(|| WILDCARD.into()))
    }

    fn form(&self, name: &str) -> Option<String> {
        let value = match name {
            TARGET => &self.target,
            IP_PROTOCOL => &self.ip_protocol,
            _ => &None,
        };
        value.as_deref().map(percent_encode)
    }
}

fn target(target: &Target) -> Result<Option<String>, ExpandError> {
    if let Target::Name(name) = target {
        let refused = |reason| ExpandError::Name { name: name.clone(), reason };
        if Target::parse(name).map_err(refused)? != *target {
            return Err(refused(ScopeError::Target));
        }
    }
    Ok(target.value())
}

/// RFC 6570 §3.2.1: everything but unreserved characters.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if super::matcher::is_unreserved(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
