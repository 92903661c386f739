//! URI templates (RFC 6570, as RFC 9484 §3 narrows it): where a gateway's tunnels are, and where in that its variables
//! `target` and `ipproto` stand. The client [expands](PathTemplate::expand) one, the server [matches](Matcher) it.
//!
//! ```
//! use m2m_tunnel::{scope::{Scope, Target}, template::Template};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let template: Template = "https://gateway.example/masque/ip{?target,ipproto}".parse()?;
//! let scope = Scope { target: Target::parse("2001:db8::/32")?, ip_protocol: Some(17) };
//! let path = template.path().expand(&scope)?;
//! assert_eq!(path, "/masque/ip?target=2001%3Adb8%3A%3A%2F32&ipproto=17");
//! assert_eq!(template.path().matcher()?.scope(&path)?, scope);
//! # Ok(())
//! # }
//! ```

mod expand;
mod matcher;
mod parse;

use std::{fmt, str::FromStr};

pub use expand::ExpandError;
pub use matcher::{Matcher, Mismatch};

const TARGET: &str = "target";
const IP_PROTOCOL: &str = "ipproto";

/// The port of a template that names none.
const HTTPS_PORT: u16 = 443;

/// A gateway's URI template, with which a client is configured:
/// `https://gateway.example/.well-known/masque/ip/{target}/{ipproto}/`, or any other that RFC 9484 §3 allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    authority: String,
    host: String,
    port: u16,
    path: PathTemplate,
}

impl Template {
    /// The default template of a gateway of which only host, and port if it is not 443, are known (RFC 9484 §3).
    ///
    /// # Errors
    /// When `authority` is not `host` or `host:port`.
    pub fn of_authority(authority: &str) -> Result<Self, TemplateError> {
        Self::new(authority, PathTemplate::default())
    }

    /// The `:authority` of requests: the host, with a port if the template has one.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// Name or address of the gateway, an IPv6 address without its brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The gateway's port, UDP and TCP.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// What comes behind the authority.
    #[must_use]
    pub const fn path(&self) -> &PathTemplate {
        &self.path
    }

    fn new(authority: &str, path: PathTemplate) -> Result<Self, TemplateError> {
        let (host, port) = parse::authority(authority)?;
        Ok(Self { authority: authority.into(), host: host.into(), port: port.unwrap_or(HTTPS_PORT), path })
    }
}

impl FromStr for Template {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        let (authority, path) = parse::split(text)?;
        parse::authority(authority)?;
        Self::new(authority, path.parse()?)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority, self.path)
    }
}

/// Path and query of a [`Template`], which is all that a gateway looks at. The default is that of RFC 9484 §3:
/// `/.well-known/masque/ip/{target}/{ipproto}/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathTemplate {
    text: String,
    parts: Vec<Part>,
}

impl Default for PathTemplate {
    fn default() -> Self {
        let literal = |text: &str| Part::Literal(text.into());
        let variable = |name: &str| Part::Simple(vec![name.into()]);
        Self {
            text: "/.well-known/masque/ip/{target}/{ipproto}/".into(),
            parts: vec![
                literal("/.well-known/masque/ip/"),
                variable(TARGET),
                literal("/"),
                variable(IP_PROTOCOL),
                literal("/"),
            ],
        }
    }
}

impl FromStr for PathTemplate {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        Ok(Self { text: text.into(), parts: parse::parts(text)? })
    }
}

impl fmt::Display for PathTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A piece of a template.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Stands for itself.
    Literal(String),
    /// `{a,b}`: values, separated by commas.
    Simple(Vec<String>),
    /// `{?a,b}` or `{&a,b}`: names and values, the first behind this character, the others behind an ampersand. Those
    /// without a value are left out.
    Form(char, Vec<String>),
}

impl Part {
    fn names(&self) -> &[String] {
        match self {
            Self::Literal(_) => &[],
            Self::Simple(names) | Self::Form(_, names) => names,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Simple(names) => write!(f, "{{{}}}", names.join(",")),
            Self::Form(first, names) => write!(f, "{{{first}{}}}", names.join(",")),
        }
    }
}

/// Why a text is no URI template for a gateway.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TemplateError {
    /// It is no https URI.
    #[error("template must begin with https://")]
    Scheme,
    /// Its authority is wrong, or has a variable in it.
    #[error("template's authority is {0:?}, must be host or host:port without variables")]
    Authority(String),
    /// Its path is missing, or does not begin with a slash.
    #[error("template's path must begin with a slash")]
    Path,
    /// It has a character that a URI must not have.
    #[error("template has the character {0:?}, which must be percent-encoded")]
    Character(char),
    /// It has a fragment.
    #[error("template must not have a fragment (#)")]
    Fragment,
    /// A percent sign without two hexadecimal digits.
    #[error("template has a percent sign without two hexadecimal digits")]
    PercentSign,
    /// A brace without its counterpart.
    #[error("template has a brace without its counterpart")]
    Brace,
    /// An expression of another kind than RFC 9484 §3 allows.
    #[error(
        "template has the expression {{{0}}}; only {{name}}, {{?name}} and {{&name}} are allowed, each with one name or more"
    )]
    Operator(String),
    /// An expression with a prefix length or an asterisk.
    #[error("template has the expression {{{0}}}; prefix lengths and asterisks are level 4, only level 3 is allowed")]
    Level(String),
    /// A name with other characters than letters, digits, underscores, percent-encoded ones, and dots between them
    /// (RFC 6570 §2.3).
    #[error("template has the expression {{{expression}}}; {name:?} is no name of a variable")]
    Name {
        /// Where it stands.
        expression: String,
        /// The name.
        name: String,
    },
    /// What comes behind an expression could be a part of its value, so that no server can tell.
    #[error("template cannot be matched: what comes behind {0} could belong to it")]
    Ambiguous(String),
}

#[cfg(test)]
mod tests;
