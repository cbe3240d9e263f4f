//! Documents as YAML that every reader understands alike.
//!
//! calicoctl reads YAML 1.1, in which `yes`, `012`, `1:30` or `2001-01-01` are no texts, and what reads here is
//! YAML 1.2, in which they are. So a text stands without quotes only if no reader can take it for anything else.

use serde_json::Value;
use std::fmt::Write as _;
use std::net::Ipv4Addr;

/// What YAML 1.1 takes for a truth or for nothing, in any case of letters (<https://yaml.org/type/bool.html>,
/// <https://yaml.org/type/null.html>), and words that readers are known to take for numbers.
const WORDS: [&str; 12] =
    ["y", "n", "yes", "no", "true", "false", "on", "off", "null", "nan", "inf", "infinity"];
/// Longest key that may stand before its `:` on one line is of 1024 characters; quotes and escapes need some.
const LONG_KEY: usize = 160;

/// A value as a YAML document.
#[must_use]
pub fn yaml(value: &Value) -> String {
    let mut out = String::new();
    if has_parts(value) {
        block(&mut out, value, 0);
    } else {
        let _ = writeln!(out, "{}", leaf(value));
    }
    out
}

fn has_parts(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

/// Writes what has parts, one a line, from the column on in which the text ends.
fn block(out: &mut String, value: &Value, column: usize) {
    match value {
        Value::Object(map) => {
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    indent(out, column);
                }
                if key.len() > LONG_KEY {
                    let _ = writeln!(out, "? {}", text(key));
                    indent(out, column);
                } else {
                    out.push_str(&text(key));
                }
                out.push(':');
                match value {
                    value if !has_parts(value) => {
                        let _ = writeln!(out, " {}", leaf(value));
                    }
                    value => {
                        let column = if value.is_array() { column } else { column + 2 };
                        out.push('\n');
                        indent(out, column);
                        block(out, value, column);
                    }
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    indent(out, column);
                }
                out.push_str("- ");
                if has_parts(item) {
                    block(out, item, column + 2);
                } else {
                    let _ = writeln!(out, "{}", leaf(item));
                }
            }
        }
        _ => {}
    }
}

fn indent(out: &mut String, columns: usize) {
    out.extend(std::iter::repeat_n(' ', columns));
}

fn leaf(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        // Also the empty object and the empty list: YAML has JSON's form of them.
        other => other.to_string(),
    }
}

fn text(text: &str) -> String {
    if is_plain(text) {
        text.to_owned()
    } else if text.chars().all(|c| c == ' ' || c.is_ascii_graphic()) {
        format!("'{}'", text.replace('\'', "''"))
    } else {
        escaped(text)
    }
}

/// Whether a text can stand without quotes. All that YAML reads as something else and that begins with a letter is in
/// [`WORDS`]; all that begins with a digit is a number, a time or a date, and none of these has a `/`.
fn is_plain(text: &str) -> bool {
    let begins = match text.bytes().next() {
        Some(first) if first.is_ascii_alphabetic() => {
            !WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        }
        Some(first) if first.is_ascii_digit() => text.contains('/') || text.parse::<Ipv4Addr>().is_ok(),
        _ => false,
    };
    begins
        && text.bytes().all(|b| b == b' ' || b.is_ascii_graphic())
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
}

/// In double quotes; whatever YAML does not call printable, and whatever it would fold, as a number.
fn escaped(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_another_reader_takes_for_no_text_stands_in_quotes() {
        let words = "yes no on off y n Y N NO True TRUE false null Null ~ 1_000 0o7 012 1e3 1.5e+3 .5 5. 2001-01-01 \
                     2001-12-14t21:59:43.10-05:00 0x1f 0b1 1:30 190:20:30.15 +1 -1 .inf -.INF .NaN << = 80 1_0.5 09 0. 1__0 \
                     2001:db8::1 a: *a &a !a %a @a `a {a [a 'a' \"a\" | > ? --- ...";
        for word in
            words.split(' ').filter(|word| !word.is_empty()).chain(["", "- a", "a: b", "a #b", "a ", " a"])
        {
            let text = yaml(&json!({ "a": word, word: ["a", word] }));
            let quoted = format!("'{}'", word.replace('\'', "''"));
            assert_eq!(text.matches(&quoted).count(), 3, "{word:?}:\n{text}");
            assert!(text.contains(&format!("a: {quoted}\n")), "{text}");
        }
    }

    #[test]
    fn what_reads_well_without_quotes_has_none() {
        for word in [
            "web",
            "10.0.0.0/16",
            "10.0.0.1",
            "fd00::/8",
            "role == 'web'",
            "has(a) && !b",
            "Yesterday",
            "projectcalico.org/v3",
            "all()",
            "a:b",
            "a#b",
        ] {
            assert_eq!(yaml(&json!({ "a": word })), format!("a: {word}\n"));
        }
    }

    #[test]
    fn documents_have_calicoctls_form() {
        let value = json!({
            "kind": "GlobalNetworkPolicy",
            "metadata": {"name": "a", "labels": {"yes": "on"}, "annotations": {}},
            "spec": {"order": 10.5, "ingress": [{"action": "Allow", "source": {"nets": ["10.0.0.0/8"]}}, {"action": "Deny"}],
                "types": [], "doNotTrack": true, "odd": [[1, null], []], "note": "two\nlines"},
        });
        assert_eq!(
            yaml(&value),
            "kind: GlobalNetworkPolicy\nmetadata:\n  annotations: {}\n  labels:\n    'yes': 'on'\n  name: a\nspec:\n  \
             doNotTrack: true\n  ingress:\n  - action: Allow\n    source:\n      nets:\n      - 10.0.0.0/8\n  - action: Deny\n  \
             note: \"two\\nlines\"\n  odd:\n  - - 1\n    - null\n  - []\n  order: 10.5\n  types: []\n"
        );
        assert_eq!((yaml(&json!({})), yaml(&json!("no"))), ("{}\n".to_owned(), "'no'\n".to_owned()));
    }

    #[test]
    fn a_long_key_is_read_again() {
        let value = json!({ "a": { "k".repeat(5000): { "b": [1] }, "é".repeat(600): 1 } });
        assert_eq!(serde_yaml_ng::from_str::<Value>(&yaml(&value)).unwrap(), value);
    }

    fn values() -> impl Strategy<Value = Value> {
        let word = prop_oneof![any::<String>(), "[-+.:_ #'\"yYnNoOeE0-9xTZ~\\n]{0,8}"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            word.clone().prop_map(Value::from)
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::vec((word.clone(), inner), 0..4)
                    .prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_the_same(value in values()) {
            let text = yaml(&value);
            prop_assert_eq!(serde_yaml_ng::from_str::<Value>(&text).unwrap(), value, "{}", text);
        }
    }
}
