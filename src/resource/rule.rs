//! What is wrong with rules whose fields have their forms (`validateRule` and `validateEntityRule` in
//! `libcalico-go/lib/validator/v3/validator.go`).

use super::shape::{Problems, has_ports, is_given, is_named_port};
use crate::model::{Cidr, IpVersion};
use serde_json::{Map, Value};

const GLOBAL: &str = "global()";
/// Where `global()` cannot stand.
pub(super) const ONLY_IN_NAMESPACES: &str = "global() can stand in a rule's namespaceSelector only";

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
            http(rule, &path, problems);
            for side in ["source", "destination"] {
                if let Some(entity) = rule.get(side) {
                    selectors(entity, &format!("{path}.{side}"), problems);
                    services(entity, &format!("{path}.{side}"), problems);
                }
            }
        }
    }
}

/// What holds for the rules of policies only; those of a profile may have it. A policy of no namespace must name that
/// of a service.
pub(super) fn of_policy(spec: &Map<String, Value>, global: bool, problems: &mut Problems) {
    for (direction, other) in [("ingress", "destination"), ("egress", "source")] {
        let rules = spec.get(direction).and_then(Value::as_array);
        for (index, rule) in rules.into_iter().flatten().enumerate() {
            let path = format!("spec.{direction}[{index}]");
            if direction == "egress" && has(rule, "http") {
                problems.say(&format!("{path}.http"), "only rules of ingress can have it");
            }
            for side in ["source", "destination"] {
                let Some(services) = rule.get(side).and_then(|side| side.get("services")) else { continue };
                let path = format!("{path}.{side}.services");
                if side == other && !services.is_null() {
                    problems.say(&path, format!("rules of {direction} cannot have it on this side"));
                } else if global && !services.is_null() && !has(services, "namespace") {
                    problems.say(&format!("{path}.namespace"), "the namespace of the service is expected");
                }
            }
        }
    }
}

fn has(value: &Value, field: &str) -> bool {
    is_given(value.get(field))
}

/// `global()` is for namespaceSelector, where it stands alone.
fn selectors(entity: &Value, path: &str, problems: &mut Problems) {
    let text = |field: &str| entity.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("selector").contains(GLOBAL) {
        problems.say(&format!("{path}.selector"), ONLY_IN_NAMESPACES);
    }
    let bare: String = text("namespaceSelector").split_whitespace().collect();
    if bare.contains(GLOBAL) && bare != GLOBAL {
        problems.say(&format!("{path}.namespaceSelector"), "global() stands alone or not at all");
    }
}

/// A service stands for its endpoints' addresses and ports, and nothing else stands beside it.
fn services(entity: &Value, path: &str, problems: &mut Problems) {
    let Some(service) = entity.get("services").filter(|service| !service.is_null()) else { return };
    if !has(service, "name") {
        problems.say(&format!("{path}.services.name"), "the name of a service is expected");
    }
    let mut beside =
        vec!["namespaceSelector", "selector", "notSelector", "serviceAccounts", "nets", "notNets"];
    if path.ends_with("destination") {
        beside.extend(["ports", "notPorts"]);
    }
    for field in beside.into_iter().filter(|field| has(entity, field)) {
        problems.say(&format!("{path}.{field}"), "it cannot stand together with services");
    }
}

fn http(rule: &Value, path: &str, problems: &mut Problems) {
    let Some(http) = rule.get("http").filter(|http| !http.is_null()) else { return };
    let path = format!("{path}.http");
    if rule.get("action").and_then(Value::as_str) != Some("Allow") {
        problems.say(&path, "only a rule that allows can have it");
    }
    let protocol = rule.get("protocol").filter(|protocol| !protocol.is_null());
    if protocol.is_some_and(|protocol| !protocol.as_str().is_some_and(|it| it.eq_ignore_ascii_case("tcp"))) {
        problems.say(&path, "protocol TCP is needed, or none");
    }
    let mut seen = Vec::new();
    for method in http.get("methods").and_then(Value::as_array).into_iter().flatten() {
        if seen.contains(&method) {
            problems.say(&format!("{path}.methods"), format!("{method} stands twice"));
        }
        seen.push(method);
    }
    let paths = http.get("paths").and_then(Value::as_array);
    for (index, found) in paths.into_iter().flatten().enumerate() {
        let place = format!("{path}.paths[{index}]");
        let word = match (has(found, "exact"), has(found, "prefix")) {
            (true, false) => found.get("exact"),
            (false, true) => found.get("prefix"),
            _ => {
                problems.say(&place, "either exact or prefix is expected");
                continue;
            }
        };
        let word = word.and_then(Value::as_str).unwrap_or_default();
        if !word.starts_with('/') || word.contains(['?', ' ', '#']) {
            problems
                .say(&place, format!("a path begins with / and has no ?, # or space in it, not {word:?}"));
        }
    }
}

/// A rule is for one IP version; prefixes of both in one rule match nothing that their author thought of.
fn families(rule: &Value, path: &str, problems: &mut Problems) {
    let stated = rule.get("ipVersion").and_then(Value::as_i64).map(|version| match version {
        6 => IpVersion::V6,
        _ => IpVersion::V4,
    });
    let implied = |field: &str| {
        rule.get(field).and_then(Value::as_str).and_then(|protocol| match protocol.to_lowercase().as_str() {
            "icmp" => Some(IpVersion::V4),
            "icmpv6" => Some(IpVersion::V6),
            _ => None,
        })
    };
    for field in ["protocol", "notProtocol"] {
        if let (Some(stated), Some(implied)) = (stated, implied(field))
            && stated != implied
        {
            problems
                .say(&format!("{path}.{field}"), format!("it is of {implied} and ipVersion says {stated}"));
        }
    }
    let implied = implied("protocol");
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
            let ports = ports.map(Vec::as_slice).unwrap_or_default();
            let right = match rule.get("protocol").filter(|protocol| !protocol.is_null()) {
                Some(protocol) => ports.is_empty() || has_ports(protocol),
                // A port with a name has its protocol where the name is given, at the endpoint.
                None => ports.iter().all(is_named_port),
            };
            if !right {
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

    #[test]
    fn ports_of_names_alone_need_no_protocol() {
        right("{action: Allow, destination: {ports: [http]}, source: {notPorts: [a, b]}}");
        for rule in [
            "{action: Allow, destination: {ports: [http, 80]}}",
            "{action: Allow, protocol: ICMP, destination: {ports: [http]}}",
        ] {
            wrong(rule, "destination.ports: protocol TCP, UDP or SCTP is needed with ports");
        }
    }

    #[test]
    fn global_stands_in_namespace_selectors_alone() {
        right("{action: Allow, source: {namespaceSelector: ' global() ', selector: has(a)}}");
        for text in ["global() && has(a)", "has(a) || global()", "!global()"] {
            wrong(
                &format!("{{action: Allow, source: {{namespaceSelector: '{text}'}}}}"),
                "source.namespaceSelector: global() stands alone or not at all",
            );
        }
        wrong(
            "{action: Allow, destination: {selector: global()}}",
            "destination.selector: global() can stand in a rule's namespaceSelector only",
        );
        for field in ["selector", "serviceAccountSelector", "namespaceSelector"] {
            assert_eq!(
                problems("GlobalNetworkPolicy", "a", &format!("{{{field}: 'global() && has(a)'}}")),
                [format!("spec.{field}: global() can stand in a rule's namespaceSelector only")]
            );
        }
    }

    #[test]
    fn http_goes_with_rules_that_allow_what_comes_by_tcp() {
        let http = "http: {methods: [GET, PUT], paths: [{exact: /a}, {prefix: /b/}]}";
        for protocol in ["", "protocol: TCP, ", "protocol: null, "] {
            right(&format!("{{action: Allow, {protocol}{http}}}"));
        }
        wrong(&format!("{{action: Deny, {http}}}"), "http: only a rule that allows can have it");
        for protocol in ["UDP", "6"] {
            wrong(
                &format!("{{action: Allow, protocol: {protocol}, {http}}}"),
                "http: protocol TCP is needed, or none",
            );
        }
        let egress = told("egress", &format!("{{action: Allow, {http}}}"));
        assert_eq!(egress, ["http: only rules of ingress can have it"]);
        assert!(problems("Profile", "a", &format!("{{egress: [{{action: Allow, {http}}}]}}")).is_empty());
        for (http, sentence) in [
            ("methods: [GET, GET]", "http.methods: \"GET\" stands twice"),
            ("paths: [{}]", "http.paths[0]: either exact or prefix is expected"),
            ("paths: [{exact: /a, prefix: /b}]", "http.paths[0]: either exact or prefix is expected"),
            (
                "paths: [{exact: /a}, {prefix: b}]",
                "http.paths[1]: a path begins with / and has no ?, # or space in it, not \"b\"",
            ),
            ("verbs: [GET]", "http.verbs: there is no such field"),
        ] {
            wrong(&format!("{{action: Allow, http: {{{http}}}}}"), sentence);
        }
    }

    #[test]
    fn services_stand_alone_on_the_peers_side() {
        let service = "services: {name: a, namespace: b}";
        right(&format!("{{action: Allow, source: {{{service}}}}}"));
        assert_eq!(
            told("egress", &format!("{{action: Allow, destination: {{{service}}}}}")),
            Vec::<String>::new()
        );
        wrong(
            &format!("{{action: Allow, destination: {{{service}}}}}"),
            "destination.services: rules of ingress cannot have it on this side",
        );
        wrong(
            "{action: Allow, source: {services: {namespace: b}}}",
            "source.services.name: the name of a service is expected",
        );
        let nowhere = "{action: Allow, source: {services: {name: a}}}";
        wrong(nowhere, "source.services.namespace: the namespace of the service is expected");
        assert!(problems("NetworkPolicy", "a", &format!("{{ingress: [{nowhere}]}}")).is_empty());
        for beside in
            ["selector: all()", "namespaceSelector: all()", "nets: [10.0.0.0/8]", "serviceAccounts: {}"]
        {
            let field = beside.split(':').next().unwrap();
            wrong(
                &format!("{{action: Allow, source: {{{service}, {beside}}}}}"),
                &format!("source.{field}: it cannot stand together with services"),
            );
        }
        assert_eq!(
            told(
                "egress",
                &format!("{{action: Allow, protocol: TCP, destination: {{{service}, ports: [80]}}}}")
            ),
            ["destination.ports: it cannot stand together with services"]
        );
    }

    #[test]
    fn a_protocol_that_must_not_match_is_of_the_rules_ip_version() {
        right("{action: Allow, ipVersion: 6, notProtocol: ICMPv6}");
        wrong(
            "{action: Allow, ipVersion: 6, notProtocol: ICMP}",
            "notProtocol: it is of IPv4 and ipVersion says IPv6",
        );
    }
}
