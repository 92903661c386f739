//! Reading templates.

use std::net::Ipv6Addr;

use super::{Part, TemplateError};

const SCHEME: &str = "https://";

/// Authority and path of a template.
pub(super) fn split(text: &str) -> Result<(&str, &str), TemplateError> {
    let rest = match text.split_at_checked(SCHEME.len()) {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => rest,
        _ => return Err(TemplateError::Scheme),
    };
    Ok(rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len())))
}

/// Host, without brackets, and port of an authority.
pub(super) fn authority(text: &str) -> Result<(&str, Option<u16>), TemplateError> {
    host_and_port(text).ok_or_else(|| TemplateError::Authority(text.into()))
}

/// The pieces of a path and query.
pub(super) fn parts(text: &str) -> Result<Vec<Part>, TemplateError> {
    if !text.starts_with('/') {
        return Err(TemplateError::Path);
    }
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (literal, behind) = rest.split_at(rest.find('{').unwrap_or(rest.len()));
        if !literal.is_empty() {
            check_literal(literal)?;
            parts.push(Part::Literal(literal.into()));
        }
        let Some(behind) = behind.strip_prefix('{') else {
            break;
        };
        let (inside, behind) = behind.split_once('}').ok_or(TemplateError::Brace)?;
        parts.push(expression(inside)?);
        rest = behind;
    }
    Ok(parts)
}

fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
    if host.is_empty() || !host.bytes().all(is_host) {
        return None;
    }
    let Some(digits) = port.strip_prefix(':') else {
        return port.is_empty().then_some((host, None));
    };
    let port = digits.parse().ok().filter(|port| *port != 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    Some((host, Some(port)))
}

fn check_literal(text: &str) -> Result<(), TemplateError> {
    let mut rest = text.chars();
    while let Some(character) = rest.next() {
        match character {
            '%' => {
                let digits = rest.as_str().get(..2).filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
                digits.ok_or(TemplateError::PercentSign)?;
            }
            '#' => return Err(TemplateError::Fragment),
            '}' => return Err(TemplateError::Brace),
            // RFC 3986 §3.3 and §3.4; brackets are for addresses in the authority only.
            '"' | '<' | '>' | '[' | ']' | '\\' | '^' | '`' | '|' => return Err(TemplateError::Character(character)),
            '!'..='~' => {}
            _ => return Err(TemplateError::Character(character)),
        }
    }
    Ok(())
}

fn expression(inside: &str) -> Result<Part, TemplateError> {
    let (operator, list) = match inside.chars().next() {
        Some(first @ ('?' | '&')) => (Some(first), &inside[1..]),
        // RFC 6570 §2.2: those of levels 2 and 3, and those kept for later
        Some('+' | '#' | '.' | '/' | ';' | '=' | ',' | '!' | '@' | '|') | None => {
            return Err(TemplateError::Operator(inside.into()));
        }
        Some(_) => (None, inside),
    };
    if list.is_empty() {
        return Err(TemplateError::Operator(inside.into()));
    }
    let mut names = Vec::new();
    for name in list.split(',') {
        if name.contains([':', '*']) {
            return Err(TemplateError::Level(inside.into()));
        }
        if !is_name(name) {
            return Err(TemplateError::Name { expression: inside.into(), name: name.into() });
        }
        names.push(name.into());
    }
    Ok(match operator {
        Some(operator) => Part::Form(operator, names),
        None => Part::Simple(names),
    })
}

/// RFC 6570 §2.3
fn is_name(text: &str) -> bool {
    let is_word = |word: &str| {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'%');
        !word.is_empty() && word.bytes().all(is_allowed) && check_literal(word).is_ok()
    };
    text.split('.').all(is_word)
}
