//! One rule of a document as a line.

use serde_json::Value;
use std::fmt::Write as _;

/// What a rule does and what it matches, in the order in which it is read aloud.
pub(super) fn line(rule: &Value) -> String {
    let text = |field: &str| rule.get(field).map(plain).filter(|text| !text.is_empty());
    let mut line = text("action").unwrap_or_else(|| "Allow".to_owned());
    if let Some(version) = text("ipVersion") {
        let _ = write!(line, " IPv{version}");
    }
    if let Some(protocol) = text("protocol") {
        let _ = write!(line, " {protocol}");
    }
    if let Some(protocol) = text("notProtocol") {
        let _ = write!(line, " other than {protocol}");
    }
    for (field, word) in [("icmp", "with"), ("notICMP", "without")] {
        if let Some(icmp) = rule.get(field).filter(|icmp| !icmp.is_null()) {
            let part = |name: &str| icmp.get(name).map(plain);
            let _ = write!(line, " {word} type {}", part("type").unwrap_or_default());
            if let Some(code) = part("code") {
                let _ = write!(line, " code {code}");
            }
        }
    }
    for (field, word) in [("source", "from"), ("destination", "to")] {
        if let Some(side) = rule.get(field).and_then(side) {
            let _ = write!(line, " {word} {side}");
        }
    }
    for field in ["http", "services"] {
        if rule.get(field).is_some() {
            let _ = write!(line, " ({field} cannot be seen by a packet filter)");
        }
    }
    line
}

fn side(side: &Value) -> Option<String> {
    const WORDS: [(&str, &str); 9] = [
        ("nets", "nets"),
        ("notNets", "not nets"),
        ("selector", "selector"),
        ("notSelector", "not selector"),
        ("namespaceSelector", "namespaces"),
        ("serviceAccounts", "service accounts"),
        ("services", "service"),
        ("ports", "ports"),
        ("notPorts", "not ports"),
    ];
    let part = |(field, word): &(&str, &str)| {
        let text = side.get(*field).map(plain).filter(|text| !text.is_empty())?;
        Some(format!("{word} {text}"))
    };
    let parts: Vec<String> = WORDS.iter().filter_map(part).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_read_aloud() {
        let of = |rule: Value| line(&rule);
        assert_eq!(of(json!({"action":"Allow"})), "Allow");
        assert_eq!(
            of(
                json!({"action":"Allow","protocol":"TCP","source":{"selector":"role == 'web'","notNets":["10.0.0.0/8"]},"destination":{"ports":[80,"90:95"]}})
            ),
            "Allow TCP from not nets 10.0.0.0/8, selector role == 'web' to ports 80 90:95"
        );
        assert_eq!(
            of(json!({"action":"Deny","ipVersion":4,"protocol":"ICMP","icmp":{"type":8,"code":0}})),
            "Deny IPv4 ICMP with type 8 code 0"
        );
    }
}
