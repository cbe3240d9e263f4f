use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn matches(selector: &str, pairs: &[(&str, &str)]) -> bool {
    Selector::parse(selector).unwrap().matches(&labels(pairs))
}

#[test]
fn the_canonical_form_is_calicos() {
    let table = [
        ("", "all()"),
        (" \t", "all()"),
        ("all( )", "all()"),
        ("global()", "global()"),
        ("has( a )", "has(a)"),
        ("has(a) ", "has(a)"),
        ("a=='b'", r#"a == "b""#),
        (r#"a == 'say "x"'"#, r#"a == 'say "x"'"#),
        (r#"a == "it's""#, r#"a == "it's""#),
        ("a != 'b'&&c=='d'", r#"(a != "b" && c == "d")"#),
        ("a=='1' || b=='2' && c=='3'", r#"(a == "1" || (b == "2" && c == "3"))"#),
        ("(a=='1' || b=='2') && c=='3'", r#"((a == "1" || b == "2") && c == "3")"#),
        ("!a == 'b'", r#"!a == "b""#),
        ("! !has(a)", "!!has(a)"),
        ("!(has(a) || has(b))", "!(has(a) || has(b))"),
        ("((has(a)))", "has(a)"),
        ("a in {'z', 'b','z',}", r#"a in {"b", "z"}"#),
        ("a in {}", "a in {}"),
        ("a not in {'b'}", r#"a not in {"b"}"#),
        ("a notin {'b'}", r#"a not in {"b"}"#),
        ("a startswith 'b'", r#"a starts with "b""#),
        ("a starts \t with 'b'", r#"a starts with "b""#),
        ("a endswith'b'", r#"a ends with "b""#),
        ("a contains 'b'", r#"a contains "b""#),
        ("in in {'a'}", r#"in in {"a"}"#),
        ("not not in {'a'}", r#"not not in {"a"}"#),
        ("has == 'a' && all == 'b'", r#"(has == "a" && all == "b")"#),
        ("projectcalico.org/network == 'abc'", r#"projectcalico.org/network == "abc""#),
        ("has(1234abcd)", "has(1234abcd)"),
        ("a == 'two\nlines'", "a == \"two\nlines\""),
    ];
    for (text, canonical) in table {
        let selector = Selector::parse(text).unwrap();
        assert_eq!(selector.to_string(), canonical, "of {text:?}");
        assert_eq!(Selector::parse(canonical).unwrap(), selector);
    }
}

#[test]
fn what_is_not_a_selector_is_refused_where_it_goes_wrong() {
    let table = [
        ("a == b", 5),
        ("a", 1),
        ("a == 'b", 5),
        ("(has(a)", 7),
        ("has(a))", 6),
        ("has(a) &&", 9),
        ("has(a) || ", 10),
        ("has(a) has(b)", 7),
        ("has (a)", 4),
        ("has()", 0),
        ("has(a:b)", 0),
        ("all(", 0),
        ("a in {,}", 6),
        ("a in {'b' 'c'}", 10),
        ("a in 'b'", 5),
        ("a in {'b'", 9),
        ("has(a)\n&& has(b)", 6),
        ("a inside {'b'}", 4),
        ("&& has(a)", 0),
        ("!", 1),
        ("a = 'b'", 2),
    ];
    for (text, at) in table {
        let error = Selector::parse(text).expect_err(text);
        assert_eq!(error.at, at, "{error}");
    }
    assert!(Selector::parse(&format!("has({})", "x".repeat(512))).is_ok());
    assert!(Selector::parse(&format!("has({})", "x".repeat(513))).is_err());
}

#[test]
fn endless_nesting_is_refused_and_does_not_end_the_process() {
    assert!(Selector::parse(&format!("{}has(a){}", "(".repeat(100_000), ")".repeat(100_000))).is_err());
    assert!(Selector::parse(&format!("{}has(a)", "!".repeat(100_000))).is_err());
    assert!(Selector::parse(&format!("{}has(a){}", "(".repeat(50), ")".repeat(50))).is_ok());
}

#[test]
fn an_absent_label_is_not_equal_to_anything() {
    for (selector, present, absent) in [
        ("a == 'x'", true, false),
        ("a != 'x'", false, true),
        ("a in {'x', 'y'}", true, false),
        ("a not in {'x'}", false, true),
        ("a in {}", false, false),
        ("a not in {}", true, true),
        ("a contains 'x'", true, false),
        ("a starts with 'x'", true, false),
        ("a ends with 'x'", true, false),
        ("has(a)", true, false),
        ("!has(a)", false, true),
        ("!a == 'x'", false, true),
        ("all()", true, true),
        ("global()", true, true),
    ] {
        assert_eq!(matches(selector, &[("a", "x")]), present, "{selector} where a is x");
        assert_eq!(matches(selector, &[]), absent, "{selector} where a is absent");
    }
    assert!(matches("has(a) && a == '' && a contains ''", &[("a", "")]));
}

#[test]
fn and_binds_tighter_than_or() {
    assert!(matches("has(a) || has(b) && has(c)", &[("a", "")]));
    assert!(!matches("(has(a) || has(b)) && has(c)", &[("a", "")]));
}

fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[^']{0,6}".prop_map(|t| t.replace('"', "'").replace('\'', "_")),
        Just("it's".to_owned()),
        Just("\"".to_owned())
    ]
}

fn any_label() -> impl Strategy<Value = String> {
    prop_oneof!["[A-Za-z0-9_./-]{1,8}", Just("in".to_owned()), Just("not".to_owned()), Just("has".to_owned())]
}

fn any_comparison() -> impl Strategy<Value = Comparison> {
    use Comparison::*;
    prop::sample::select(vec![Equal, NotEqual, Contains, StartsWith, EndsWith])
}

fn any_selector() -> impl Strategy<Value = Selector> {
    let set = || prop::collection::btree_set(any_text(), 0..3);
    let leaf =
        prop_oneof![
            Just(Selector::All),
            Just(Selector::Global),
            any_label().prop_map(Selector::Has),
            (any_label(), any_comparison(), any_text())
                .prop_map(|(label, comparison, text)| Selector::Compare { label, comparison, text }),
            (any_label(), set()).prop_map(|(label, values)| Selector::In { label, values }),
            (any_label(), set()).prop_map(|(label, values)| Selector::NotIn { label, values }),
        ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        prop_oneof![
            inner.clone().prop_map(|x| Selector::Not(Box::new(x))),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Selector::And),
            prop::collection::vec(inner, 2..4).prop_map(Selector::Or),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_printed_reads_back_as_the_same_selector(selector in any_selector()) {
        prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
    }

    #[test]
    fn no_text_ends_the_process(text in "[a-c!&|(){}'\", =\\n]{0,40}|\\PC{0,40}") {
        if let Ok(selector) = Selector::parse(&text) {
            prop_assert_eq!(Selector::parse(&selector.to_string()).unwrap(), selector);
        }
    }

    #[test]
    fn not_is_the_opposite(selector in any_selector(), value in any_text()) {
        let labels = labels(&[("in", &value), ("a", "")]);
        prop_assert_ne!(selector.matches(&labels), Selector::Not(Box::new(selector.clone())).matches(&labels));
    }
}
