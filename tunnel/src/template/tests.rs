#![allow(clippy::unwrap_used)]
use proptest::prelude::*;

use super::*;
use crate::scope::{Scope, ScopeError, Target, tests::any_scope};

fn scope(target: &str, ip_protocol: Option<u8>) -> Scope {
    Scope { target: Target::parse(target).unwrap(), ip_protocol }
}

#[test]
fn templates_of_rfc_9484() {
    let sctp = scope("target.example.com", Some(132));
    let flow = scope("2001:db8::42", Some(17));
    for (text, all, limited, flows) in [
        (
            "https://example.org/.well-known/masque/ip/{target}/{ipproto}/",
            "/.well-known/masque/ip/*/*/",
            "/.well-known/masque/ip/target.example.com/132/",
            "/.well-known/masque/ip/2001%3Adb8%3A%3A42/17/",
        ),
        (
            "https://proxy.example.org:4443/masque/ip?t={target}&i={ipproto}",
            "/masque/ip?t=*&i=*",
            "/masque/ip?t=target.example.com&i=132",
            "/masque/ip?t=2001%3Adb8%3A%3A42&i=17",
        ),
        (
            "https://proxy.example.org:4443/masque/ip{?target,ipproto}",
            "/masque/ip",
            "/masque/ip?target=target.example.com&ipproto=132",
            "/masque/ip?target=2001%3Adb8%3A%3A42&ipproto=17",
        ),
        (
            "https://proxy.example.com/proxy?user=bob{&target,ipproto}",
            "/proxy?user=bob",
            "/proxy?user=bob&target=target.example.com&ipproto=132",
            "/proxy?user=bob&target=2001%3Adb8%3A%3A42&ipproto=17",
        ),
    ] {
        let template: Template = text.parse().unwrap();
        assert_eq!(template.to_string(), text);
        let matcher = template.path().matcher().unwrap();
        for (scope, path) in [(&Scope::default(), all), (&sctp, limited), (&flow, flows)] {
            assert_eq!(template.path().expand(scope).unwrap(), path);
            assert_eq!(matcher.scope(path), Ok(scope.clone()), "{path}");
        }
    }
}

#[test]
fn a_template_without_variables_has_no_limits() {
    let template: Template = "https://masque.example.org/?user=bob".parse().unwrap();
    assert_eq!(template.path().expand(&Scope::default()).unwrap(), "/?user=bob");
    let error = template.path().expand(&scope("192.0.2.0/24", None)).unwrap_err();
    assert_eq!(error, ExpandError::Variable { variable: "target", value: "192.0.2.0/24".into() });
    let error = template.path().expand(&scope("*", Some(6))).unwrap_err();
    assert_eq!(error, ExpandError::Variable { variable: "ipproto", value: "6".into() });
    let matcher = template.path().matcher().unwrap();
    assert_eq!(matcher.scope("/?user=bob"), Ok(Scope::default()));
    assert_eq!(matcher.scope("/?user=bobby"), Err(Mismatch::Elsewhere));
    assert_eq!(matcher.scope("/"), Err(Mismatch::Elsewhere));
}

#[test]
fn names_are_checked_before_they_are_sent() {
    for (name, reason) in [
        ("", ScopeError::Empty("target")),
        ("*", ScopeError::Target),
        ("192.0.2.1", ScopeError::Target),
        ("a b", ScopeError::Target),
        ("a/24", ScopeError::Target),
    ] {
        let scope = Scope { target: Target::Name(name.into()), ip_protocol: None };
        let error = PathTemplate::default().expand(&scope).unwrap_err();
        assert_eq!(error, ExpandError::Name { name: name.into(), reason });
    }
}

#[test]
fn bits_behind_a_prefix_are_not_sent() {
    let scope = Scope { target: Target::Prefix("192.0.2.77/24".parse().unwrap()), ip_protocol: None };
    assert_eq!(PathTemplate::default().expand(&scope).unwrap(), "/.well-known/masque/ip/192.0.2.0%2F24/*/");
}

#[test]
fn authorities_are_taken_apart() {
    for (authority, host, port) in [
        ("gateway.example", "gateway.example", 443),
        ("gateway.example:8443", "gateway.example", 8443),
        ("192.0.2.1:65535", "192.0.2.1", 65535),
        ("[2001:db8::1]", "2001:db8::1", 443),
        ("[2001:db8::1]:8443", "2001:db8::1", 8443),
    ] {
        let template = Template::of_authority(authority).unwrap();
        assert_eq!((template.authority(), template.host(), template.port()), (authority, host, port));
        assert_eq!(template.path(), &PathTemplate::default());
        assert_eq!(template.to_string().parse(), Ok(template));
    }
    for authority in [
        "",
        ":443",
        "gateway.example:",
        "gateway.example:0",
        "gateway.example:+1",
        "gateway.example:65536",
        "user@gateway.example",
        "2001:db8::1",
        "[2001:db8::1",
        "[gateway.example]",
        "[::1]x",
        "gate way",
        "{host}",
        "gateway.{domain}:443",
    ] {
        assert_eq!(Template::of_authority(authority), Err(TemplateError::Authority(authority.into())));
        let text = format!("https://{authority}/x");
        assert_eq!(text.parse::<Template>(), Err(TemplateError::Authority(authority.into())));
    }
}

#[test]
fn other_texts_are_no_templates() {
    let operator = |text: &str| TemplateError::Operator(text.into());
    let level = |text: &str| TemplateError::Level(text.into());
    let name = |expression: &str, name: &str| TemplateError::Name { expression: expression.into(), name: name.into() };
    for (path, error) in [
        ("", TemplateError::Path),
        ("?t={target}", TemplateError::Path),
        ("/#{target}", TemplateError::Fragment),
        ("/ü", TemplateError::Character('ü')),
        ("/a b", TemplateError::Character(' ')),
        ("/a\n", TemplateError::Character('\n')),
        ("/a|b", TemplateError::Character('|')),
        ("/%2", TemplateError::PercentSign),
        ("/%zz", TemplateError::PercentSign),
        ("/%2ü", TemplateError::PercentSign),
        ("/{target", TemplateError::Brace),
        ("/target}", TemplateError::Brace),
        ("/{}", operator("")),
        ("/{+target}", operator("+target")),
        ("/{#target}", operator("#target")),
        ("/x{.target}", operator(".target")),
        ("{/target}", TemplateError::Authority("gateway.example{".into())),
        ("/x{/target}", operator("/target")),
        ("/x{;target}", operator(";target")),
        ("/x{=target}", operator("=target")),
        ("/x{?}", operator("?")),
        ("/{target*}", level("target*")),
        ("/{target:3}", level("target:3")),
        ("/{?target,}", name("?target,", "")),
        ("/{target,ip proto}", name("target,ip proto", "ip proto")),
        ("/{a..b}", name("a..b", "a..b")),
        ("/{ü}", name("ü", "ü")),
        ("/{%2}", name("%2", "%2")),
        ("/{{target}}", name("{target", "{target")),
    ] {
        assert_eq!(format!("https://gateway.example{path}").parse::<Template>(), Err(error), "{path}");
    }
    for text in
        ["", "gateway.example/", "http://gateway.example/", "https:/gateway.example/", "ftp://x/{target}", "hättps:/"]
    {
        assert_eq!(text.parse::<Template>(), Err(TemplateError::Scheme), "{text}");
    }
}

#[test]
fn other_variables_have_no_value_and_are_passed_over() {
    let path: PathTemplate = "/{tenant}/ip/{user,target,ipproto}{?v1.0,ex%20tra}".parse().unwrap();
    let asked = scope("10.20.0.0/24", Some(6));
    assert_eq!(path.expand(&asked).unwrap(), "//ip/10.20.0.0%2F24,6");
    let matcher = path.matcher().unwrap();
    for text in [
        "//ip/10.20.0.0%2F24,6",
        "/corp/ip/bob,10.20.0.0%2F24,6",
        "/corp/ip/,10.20.0.0%2f24,6?v1.0=yes",
        "/corp/ip/10.20.0.0%2F24,6?ex%20tra=",
        "/corp/ip/10.20.0.0%2F24,6?v1.0=1&ex%20tra=2",
    ] {
        assert_eq!(matcher.scope(text), Ok(asked.clone()), "{text}");
    }
    for (text, mismatch) in [
        ("/corp/ip/6", Mismatch::Shape),
        ("/corp/ip/a,b,10.20.0.0%2F24,6", Mismatch::Shape),
        ("/corp/ip/10.20.0.0%2F24,6?ex%20tra=1&v1.0=2", Mismatch::Shape),
        ("/corp/ip/10.20.0.0%2F24,6&v1.0=2", Mismatch::Shape),
        ("/corp/ip/,6", Mismatch::Value(ScopeError::Empty("target"))),
        ("corp/ip/*,*", Mismatch::Elsewhere),
    ] {
        assert_eq!(matcher.scope(text), Err(mismatch), "{text}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused() {
    let matcher = "/{target}{?target}".parse::<PathTemplate>().unwrap().matcher().unwrap();
    assert_eq!(matcher.scope("/192.0.2.1?target=192.0.2.1"), Ok(scope("192.0.2.1", None)));
    assert_eq!(matcher.scope("/192.0.2.1?target=192.0.2.2"), Err(Mismatch::Several("target")));
    assert_eq!(matcher.scope("/%zz"), Err(Mismatch::Encoding("target")));
}

#[test]
fn what_a_server_could_not_take_apart_is_refused() {
    for (path, part) in [
        ("/{target}{ipproto}", "{target}"),
        ("/{target}-{ipproto}", "{target}"),
        ("/{target}%2F{ipproto}", "{target}"),
        ("/{user}x/{target}", "{user}"),
        ("/{target,ipproto},x", "{target,ipproto}"),
        ("/{?target}{ipproto}", "{?target}"),
        ("/{?target}&x", "{?target}"),
        ("/{user}{?target}x", "{user}"),
        ("/{user,target}{?ipproto},", "{user,target}"),
        ("/{?target,ipproto}x", "{?target,ipproto}"),
    ] {
        let template: PathTemplate = path.parse().unwrap();
        assert_eq!(template.matcher(), Err(TemplateError::Ambiguous(part.into())), "{path}");
    }
    for path in ["/{target},{ipproto}", "/{target}/x", "/{target}{?ipproto}", "/{?target}{&ipproto}", "/{?target}/x"] {
        assert!(path.parse::<PathTemplate>().unwrap().matcher().is_ok(), "{path}");
    }
}

#[test]
fn the_default_is_what_its_text_says() {
    let default = PathTemplate::default();
    assert_eq!(default.to_string().parse(), Ok(default));
}

fn any_path() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "/",
        "ip",
        "-",
        "%2F",
        ",",
        "?",
        "&",
        "=",
        "target=",
        "*",
        "17",
        "~",
        ":",
        "{target}",
        "{ipproto}",
        "{user}",
        "{target,ipproto}",
        "{user,target}",
        "{ipproto,x,y}",
        "{?target}",
        "{?ipproto}",
        "{?target,ipproto}",
        "{?user,ipproto,target}",
        "{&target}",
        "{&ipproto}",
        "{&target,user}",
    ]);
    proptest::collection::vec(pieces, 0..8).prop_map(|pieces| format!("/{}", pieces.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn what_the_client_asks_for_is_what_the_server_reads(path in any_path(), asked in any_scope()) {
        let template: PathTemplate = path.parse().unwrap();
        prop_assert_eq!(template.to_string(), path);
        let expanded = template.expand(&asked);
        let Ok(matcher) = template.matcher() else {
            return Ok(());
        };
        match expanded {
            Ok(expanded) => prop_assert_eq!(matcher.scope(&expanded), Ok(asked)),
            Err(error) => {
                let has_no_place = matches!(error, ExpandError::Variable { .. });
                prop_assert!(has_no_place, "{}", error);
            }
        }
    }

    #[test]
    fn what_matches_is_asked_for_in_the_same_way(path in any_path(), text in "/[a*0-9/?&=,%F.:]{0,20}") {
        let Ok(matcher) = path.parse::<PathTemplate>().unwrap().matcher() else {
            return Ok(());
        };
        if let Ok(scope) = matcher.scope(&text) {
            let expanded = matcher.template().expand(&scope).unwrap();
            prop_assert_eq!(matcher.scope(&expanded), Ok(scope));
        }
    }

    #[test]
    fn any_text_does_no_harm(text in ".{0,60}") {
        if let Ok(template) = format!("https://gateway.example/{text}").parse::<Template>() {
            prop_assert_eq!(template.to_string().parse(), Ok(template));
        }
        let _ = text.parse::<Template>();
        let _ = text.parse::<PathTemplate>();
        let _ = Matcher::default().scope(&text);
    }
}
