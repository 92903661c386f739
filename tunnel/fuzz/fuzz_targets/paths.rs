//! A URI template and a request's path, a line each (RFC 9484 §3, §4.6).
#![no_main]

use libfuzzer_sys::fuzz_target;
use m2m_tunnel_fuzz::{
    memory, request,
    scope::{Scope, Target},
    template::{ExpandError, Matcher, PathTemplate, Template},
};

fuzz_target!(|input: &[u8]| {
    let text = String::from_utf8_lossy(input);
    let (template, path) = text.split_once('\n').unwrap_or((&text, ""));
    let ((), peak) = memory::peak(|| run(template, path));
    // A name of one letter is a string of its own, and everything is there in several forms at once.
    assert!(peak <= 128 * text.len() + 8 * 1024, "{peak} bytes of heap for {}", text.len());
});

fn run(text: &str, path: &str) {
    if let Ok(template) = text.parse::<Template>() {
        assert_eq!(template.to_string().parse(), Ok(template.clone()));
        assert!(!template.host().is_empty() && template.port() != 0);
        assert!(template.authority().contains(template.host()));
    }
    // What this path asks for at the default place, or what it asks for itself.
    let default = Matcher::default();
    let asked =
        default.scope(path).ok().or_else(|| Some(Scope { target: Target::parse(path).ok()?, ip_protocol: Some(6) }));
    if let Some(asked) = &asked {
        assert_eq!(
            default.scope(&default.template().expand(asked).expect("both variables are there")).as_ref(),
            Ok(asked)
        );
    }
    let mut request = request::unlimited("gateway.example");
    request.path = path.into();
    assert_eq!(request::scope(&request).ok(), default.scope(path).ok());

    let Ok(template) = text.parse::<PathTemplate>() else { return };
    assert_eq!(template.to_string(), text);
    let Ok(matcher) = template.matcher() else { return };
    if let Ok(scope) = matcher.scope(path) {
        let expanded = template.expand(&scope).expect("what was found can be said");
        assert!(expanded.starts_with('/') && expanded.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(matcher.scope(&expanded), Ok(scope));
    }
    for scope in asked.into_iter().chain([Scope::default()]) {
        match template.expand(&scope) {
            Ok(expanded) => assert_eq!(matcher.scope(&expanded), Ok(scope)),
            Err(ExpandError::Variable { .. }) => assert_ne!(scope, Scope::default()),
            Err(error) => panic!("{error}"),
        }
    }
}
