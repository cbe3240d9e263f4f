//! What is wrong with rules whose fields have their forms (`validateRule` and `validateEntityRule` in
//! `libcalico-go/lib/validator/v3/validator.go`).

use super::shape::Problems;
use crate::model::{Cidr, IpVersion};
use serde_json::{Map, Value};

/// Looks at the rules of a policy or profile.
pub(super) fn rules(spec: &Map<String, Value>, problems: &mut Problems) {
    for direction in ["ingress", "egress"] {
        let rules = spec.get(direction).and_then(Value::as_array);
        for (index, rule) in rules.into_iter().flatten().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            if rule.get("action").and_then(Value::as_str).is_none_or(str::is_empty) {
                problems.say(&format!("{path}.action"), "one of Allow, Deny, Log, Pass is expected");
            }
            if rule.get("ipVersion").and_then(Value::as_i64) == Some(5) {
                problems.say(&format!("{path}.ipVersion"), "4 or 6 is expected, not 5");
            }
            families(rule, &path, problems);
            protocol(rule, &path, problems);
        }
    }
}

/// A rule is for one IP version; prefixes of both in one rule match nothing that their author thought of.
fn families(rule: &Value, path: &str, problems: &mut Problems) {
    let stated = rule.get("ipVersion").and_then(Value::as_i64).map(|version| match version {
        6 => IpVersion::V6,
        _ => IpVersion::V4,
    });
    let implied = rule.get("protocol").and_then(Value::as_str).and_then(|protocol| {
        match protocol.to_lowercase().as_str() {
            "icmp" => Some(IpVersion::V4),
            "icmpv6" => Some(IpVersion::V6),
            _ => None,
        }
    });
    if let (Some(stated), Some(implied)) = (stated, implied)
        && stated != implied
    {
        problems.say(&format!("{path}.protocol"), format!("it is of {implied} and ipVersion says {stated}"));
    }
    let mut version = stated.or(implied);
    for side in ["source", "destination"] {
        for field in ["nets", "notNets"] {
            let nets = rule.get(side).and_then(|side| side.get(field)).and_then(Value::as_array);
            for (index, net) in nets.into_iter().flatten().enumerate() {
                let Some(net) = net.as_str().and_then(|net| Cidr::parse_masking(net.trim()).ok()) else {
                    continue;
                };
                let path = format!("{path}.{side}.{field}[{index}]");
                if field == "notNets" && net.prefix_len() == 0 {
                    problems.say(&path, format!("without {net} nothing is left to match"));
                }
                match version {
                    Some(version) if version != net.version() => problems.say(
                        &path,
                        format!("{net} is {}, and the rule is for {version}: make two rules", net.version()),
                    ),
                    _ => version = Some(net.version()),
                }
            }
        }
    }
}

fn protocol(rule: &Value, path: &str, problems: &mut Problems) {
    let named = |names: &[&str]| {
        rule.get("protocol").is_some_and(|protocol| {
            let text = protocol.as_str().map_or_else(|| protocol.to_string(), str::to_lowercase);
            names.contains(&text.as_str())
        })
    };
    for side in ["source", "destination"] {
        for field in ["ports", "notPorts"] {
            let ports = rule.get(side).and_then(|side| side.get(field)).and_then(Value::as_array);
            if ports.is_some_and(|ports| !ports.is_empty())
                && !named(&["tcp", "udp", "sctp", "6", "17", "132"])
            {
                problems
                    .say(&format!("{path}.{side}.{field}"), "protocol TCP, UDP or SCTP is needed with ports");
            }
        }
    }
    for field in ["icmp", "notICMP"] {
        let Some(icmp) = rule.get(field).filter(|icmp| !icmp.is_null()) else { continue };
        let path = format!("{path}.{field}");
        // Of a number Felix does not know the IP version: it gives the rule to ip6tables, too, which refuses it with
        // all others, and Felix ends (`felix/rules/policy.go`).
        if named(&["1", "58"]) {
            problems.say(&path, "the protocol's name is needed, ICMP or ICMPv6, not its number");
        } else if !named(&["icmp", "icmpv6"]) {
            problems.say(&path, "protocol ICMP or ICMPv6 is needed");
        }
        if icmp.get("code").is_some() && icmp.get("type").is_none() {
            problems.say(&path, "a code needs a type");
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::resource::problems;

    /// What is wrong with a policy that has one rule, without the rule's place.
    fn told(direction: &str, rule: &str) -> Vec<String> {
        let place = format!("spec.{direction}[0].");
        let found = problems("GlobalNetworkPolicy", "a", &format!("{{{direction}: [{rule}]}}"));
        found.iter().map(|sentence| sentence.trim_start_matches(&place).to_owned()).collect()
    }

    #[track_caller]
    fn right(rule: &str) {
        assert_eq!(told("ingress", rule), Vec::<String>::new(), "{rule}");
    }

    #[track_caller]
    fn wrong(rule: &str, sentence: &str) {
        assert_eq!(told("ingress", rule), [sentence], "{rule}");
    }

    #[test]
    fn icmp_fields_need_the_protocols_name() {
        for field in ["icmp", "notICMP"] {
            for protocol in ["ICMP", "ICMPv6"] {
                right(&format!("{{action: Allow, protocol: {protocol}, {field}: {{type: 8}}}}"));
            }
            for protocol in ["1", "58", "'1'", "'58'"] {
                wrong(
                    &format!("{{action: Allow, protocol: {protocol}, {field}: {{type: 8}}}}"),
                    &format!("{field}: the protocol's name is needed, ICMP or ICMPv6, not its number"),
                );
            }
            wrong(
                &format!("{{action: Allow, {field}: {{}}}}"),
                &format!("{field}: protocol ICMP or ICMPv6 is needed"),
            );
        }
        right("{action: Allow, protocol: 1}");
        right("{action: Allow, protocol: 58}");
        let profile = problems("Profile", "a", "{egress: [{action: Allow, protocol: 58, icmp: {type: 8}}]}");
        assert_eq!(profile.len(), 1, "{profile:?}");
    }

    #[test]
    fn ports_have_names_that_every_felix_takes() {
        let longest = "a".repeat(15);
        for name in ["http", "a", "8080-tcp", "a-b-c", &longest] {
            right(&format!("{{action: Allow, protocol: TCP, destination: {{ports: [80, '{name}']}}}}"));
        }
        let long = "a".repeat(16);
        for name in ["HTTP", "a_b", "a.b", "80-90", "-a", "a-", "a--b", &long, "a b", "é"] {
            for (side, field) in [("source", "notPorts"), ("destination", "ports")] {
                wrong(
                    &format!("{{action: Allow, protocol: TCP, {side}: {{{field}: ['{name}']}}}}"),
                    &format!(
                        "{side}.{field}[0]: a port's name of up to 15 lower case letters, digits and single '-', with a letter in it, is expected, or a range such as 80:90, not \"{name}\""
                    ),
                );
            }
        }
    }
}
