//! What is wrong with a document, whatever else the datastore holds.

use super::complete::DEFAULT_TIER_ORDER;
use super::document::Document;
use super::rule;
use super::schema;
use super::shape::Problems;
use crate::model::{Cidr, IpVersion, is_resource_name};
use crate::policy::{Graph, Update};
use serde_json::{Map, Value};
use std::net::IpAddr;

/// The profile that Calico makes up and never stores.
const DEFAULT_ALLOW: &str = "projectcalico-default-allow";

/// Everything that is wrong with a document, one sentence for each field; nothing if it can be written.
#[must_use]
pub fn check(document: &Document) -> Vec<String> {
    let mut problems = Problems::default();
    name(document, &mut problems);
    if let Some(metadata) = document.value.get("metadata") {
        problems.fit("metadata", metadata, schema::METADATA);
    }
    if let Some(root) = document.value.as_object() {
        for field in root.keys() {
            if !["apiVersion", "kind", "metadata", "spec", "status"].contains(&field.as_str()) {
                problems.say(field, "there is no such field");
            }
        }
    }
    match (document.value.get("spec"), schema::spec(document.kind)) {
        (None, _) => problems.say("spec", "it is missing"),
        (Some(spec @ Value::Object(_)), Some(shape)) => problems.fit("spec", spec, shape),
        (Some(Value::Object(_)), None) => {}
        (Some(_), _) => problems.say("spec", "an object is expected"),
    }
    // What has not the form of its field cannot be looked at further.
    if problems.0.is_empty()
        && let Some(spec) = document.spec()
    {
        match document.kind.word {
            "NetworkPolicy" => policy(spec, false, &mut problems),
            "GlobalNetworkPolicy" => policy(spec, true, &mut problems),
            "Profile" => rule::rules(spec, &mut problems),
            "IPPool" => super::pool::check(spec, &mut problems),
            "Tier" => tier(document, spec, &mut problems),
            "Node" => node(spec, &mut problems),
            "HostEndpoint" => super::bgp::host_endpoint(spec, &mut problems),
            "BGPConfiguration" => super::bgp::configuration(&document.name, spec, &mut problems),
            "BGPPeer" => super::bgp::peer(spec, &mut problems),
            "BGPFilter" => super::bgp::filter(spec, &mut problems),
            "IPAMConfiguration" => super::pool::configuration(spec, &mut problems),
            _ => {}
        }
    }
    if problems.0.is_empty() {
        problems.0.extend(refusals(document));
    }
    problems.0
}

fn name(document: &Document, problems: &mut Problems) {
    let (name, kind) = (&document.name, document.kind.word);
    if !is_resource_name(name) {
        problems.say(
            "metadata.name",
            format!("up to 253 lower case letters, digits, '-' and '.' are expected, not {name:?}"),
        );
    }
    match kind {
        "Profile" if name == DEFAULT_ALLOW => {
            problems.say("metadata.name", format!("{DEFAULT_ALLOW} is Calico's own and is never stored"));
        }
        "Profile" if name.starts_with("kns.") || name.starts_with("ksa.") => {
            problems.say("metadata.name", "profiles with kns. or ksa. in front belong to Kubernetes");
        }
        "Tier" if name.contains('.') => {
            problems
                .say("metadata.name", "a tier's name has no '.', because it stands before names of policies");
        }
        // A policy is looked up by its tier, which must fit into a label (`validateTier`).
        "Tier" if name.len() > 63 => {
            problems.say("metadata.name", "a tier's name has up to 63 characters");
        }
        "GlobalNetworkPolicy" if name.matches('.').count() > 1 => {
            problems.say("metadata.name", "one '.' is expected at most, with a tier before it");
        }
        "IPAMConfiguration" if name != "default" => {
            problems.say("metadata.name", "default is expected: there is one for the whole cluster");
        }
        "FelixConfiguration" | "BGPConfiguration" if name != "default" && !name.starts_with("node.") => {
            problems.say("metadata.name", "default is expected, or node. and the name of a node");
        }
        _ => {}
    }
}

/// The tiers that Calico makes itself stay as it makes them (`validateTier`, `api/pkg/apis/projectcalico/v3/tier.go`).
fn tier(document: &Document, spec: &Map<String, Value>, problems: &mut Problems) {
    let (order, action) = match document.name.as_str() {
        "default" => (f64::from(DEFAULT_TIER_ORDER), "Deny"),
        "kube-admin" => (1_000.0, "Pass"),
        "kube-baseline" => (10_000_000.0, "Pass"),
        _ => return,
    };
    let name = &document.name;
    // As it is completed before it is written.
    let found = spec.get("order").and_then(Value::as_f64).unwrap_or_else(|| DEFAULT_TIER_ORDER.into());
    if (found - order).abs() > 0.0 {
        problems.say("spec.order", format!("the order of tier {name} is {order} and cannot be changed"));
    }
    // Where it is left out, Deny is meant.
    let found = spec.get("defaultAction").and_then(Value::as_str).filter(|found| !found.is_empty());
    if found.unwrap_or("Deny") != action {
        problems.say("spec.defaultAction", format!("that of tier {name} is {action} and cannot be changed"));
    }
}

/// Felix takes a Node for missing if one of these is wrong (`felix/calc/validation_filter.go`, `validateNodeSpec`).
fn node(spec: &Map<String, Value>, problems: &mut Problems) {
    const ADDRESSES: [(&str, IpVersion); 4] = [
        ("ipv4VXLANTunnelAddr", IpVersion::V4),
        ("ipv6VXLANTunnelAddr", IpVersion::V6),
        ("bgp.ipv4IPIPTunnelAddr", IpVersion::V4),
        ("bgp.routeReflectorClusterID", IpVersion::V4),
    ];
    for (path, version) in ADDRESSES {
        let (outer, field) = path.split_once('.').unwrap_or((path, ""));
        let value =
            spec.get(outer).and_then(|value| if field.is_empty() { Some(value) } else { value.get(field) });
        let Some(value) = value.filter(|value| !value.is_null() && *value != "") else { continue };
        let read = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        if read.is_none_or(|address| IpVersion::of(address) != version) {
            problems.say(&format!("spec.{path}"), format!("an {version} address is expected, not {value}"));
        }
    }
    let Some(bgp) = spec.get("bgp").filter(|bgp| !bgp.is_null()) else { return };
    if bgp.as_object().is_some_and(|bgp| bgp.values().all(|value| value.is_null() || value == "")) {
        problems.say("spec.bgp", "it is empty; leave it out");
    }
    for (field, version) in [("ipv4Address", IpVersion::V4), ("ipv6Address", IpVersion::V6)] {
        let Some(value) = bgp.get(field).filter(|value| !value.is_null()) else { continue };
        let read = value.as_str().and_then(|text| Cidr::parse_masking(text).ok());
        if read.is_none_or(|cidr| cidr.version() != version) {
            let path = format!("spec.bgp.{field}");
            problems
                .say(&path, format!("an {version} address with its prefix length is expected, not {value}"));
        }
    }
}

fn policy(spec: &Map<String, Value>, global: bool, problems: &mut Problems) {
    rule::rules(spec, problems);
    rule::of_policy(spec, global, problems);
    for field in ["selector", "serviceAccountSelector", "namespaceSelector"] {
        if spec.get(field).and_then(Value::as_str).is_some_and(|text| text.contains("global()")) {
            problems.say(&format!("spec.{field}"), rule::ONLY_IN_NAMESPACES);
        }
    }
    let flag = |field: &str| spec.get(field).and_then(Value::as_bool).unwrap_or_default();
    let has = |field: &str| spec.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if flag("doNotTrack") && flag("preDNAT") {
        problems.say("spec.preDNAT", "it cannot be true together with doNotTrack");
    }
    if flag("preDNAT") && has("egress") {
        problems.say("spec.egress", "a policy with preDNAT has ingress rules only");
    }
    for field in ["doNotTrack", "preDNAT"] {
        if flag(field) && !flag("applyOnForward") {
            problems.say("spec.applyOnForward", format!("it must be true together with {field}"));
        }
    }
    let types = spec.get("types").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if flag("preDNAT") && types.iter().any(|word| word == "Egress") {
        problems.say("spec.types", "a policy with preDNAT is for Ingress only");
    }
    let mut seen = Vec::new();
    for word in types {
        if seen.contains(&word) {
            problems.say("spec.types", format!("{word} stands twice"));
        }
        seen.push(word);
    }
}

/// What the policy engine itself would not put in force.
fn refusals(document: &Document) -> Vec<String> {
    verdicts(document).into_iter().filter(|sentence| sentence.starts_with("denies ")).collect()
}

/// What the policy engine takes, though perhaps not as its author thinks.
#[must_use]
pub fn doubts(document: &Document) -> Vec<String> {
    let mut found: Vec<String> =
        verdicts(document).into_iter().filter(|sentence| !sentence.starts_with("denies ")).collect();
    if document.kind.word == "IPAMConfiguration" {
        // datamodel 1.14
        found.push("is not what IPAM reads from etcd; `ipam configure` writes that".to_owned());
    }
    found
}

fn verdicts(document: &Document) -> Vec<String> {
    let Ok(value) = serde_json::to_vec(&document.value) else { return Vec::new() };
    let Some(update) = Update::from_entry(&document.key(&document.name), Some(&value)) else {
        return Vec::new();
    };
    let mut graph = Graph::new("");
    graph.update(update);
    let title = format!("{} ", document.title());
    graph.problems().iter().map(|sentence| sentence.trim_start_matches(&title).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::{problems, read};

    #[track_caller]
    fn wrong(kind: &str, spec: &str, sentence: &str) {
        assert_eq!(problems(kind, "a", spec), [sentence], "{spec}");
    }

    fn rule(rule: &str) -> String {
        format!("{{ingress: [{rule}]}}")
    }

    #[test]
    fn what_calicoctls_documents_have_is_right() {
        for (kind, spec) in [
            (
                "GlobalNetworkPolicy",
                "{order: 10, selector: \"role == 'web'\", types: [Ingress], ingress: [{action: Allow, protocol: TCP, source: {nets: [10.0.0.0/8], notNets: [10.1.0.0/16]}, destination: {ports: [80, '90:95', http]}}]}",
            ),
            (
                "NetworkPolicy",
                "{egress: [{action: Pass, protocol: 132, destination: {namespaceSelector: global(), ports: [1]}}]}",
            ),
            ("GlobalNetworkPolicy", "{ingress: [{action: Deny, protocol: ICMP, icmp: {type: 8, code: 0}}]}"),
            ("GlobalNetworkSet", "{nets: [10.0.0.0/8, 10.1.2.3, 'fd00::/8']}"),
            ("Tier", "{order: 5.5, defaultAction: Pass}"),
            ("Profile", "{ingress: [{action: Allow}], labelsToApply: {a/b: c, d: ''}}"),
            ("IPReservation", "{reservedCIDRs: [10.0.0.1, 10.0.0.0/30]}"),
            ("Node", "{bgp: {ipv4Address: 10.0.0.1/24}, anything: 7}"),
        ] {
            assert_eq!(problems(kind, "a", spec), Vec::<String>::new(), "{kind} {spec}");
        }
        assert!(problems("FelixConfiguration", "default", "{logSeverityScreen: Info}").is_empty());
    }

    #[test]
    fn fields_of_the_wrong_form_are_named() {
        let gnp = "GlobalNetworkPolicy";
        wrong(gnp, "{selectr: all()}", "spec.selectr: there is no such field");
        wrong(gnp, "{Selector: all()}", "spec.Selector: there is no such field; selector is meant");
        wrong(gnp, "{selector: \"role = 'web'\"}", &problems(gnp, "a", "{selector: \"role = 'web'\"}")[0]);
        assert!(problems(gnp, "a", "{selector: \"role = 'web'\"}")[0].starts_with("spec.selector: selector"));
        wrong(gnp, "{order: first}", r#"spec.order: a number is expected, not "first""#);
        wrong(
            gnp,
            "{types: [ingress]}",
            r#"spec.types[0]: one of Ingress, Egress is expected, not "ingress""#,
        );
        wrong(
            gnp,
            &rule("{action: allow}"),
            r#"spec.ingress[0].action: one of Allow, Deny, Log, Pass is expected, not "allow""#,
        );
        wrong(gnp, &rule("{}"), "spec.ingress[0].action: one of Allow, Deny, Log, Pass is expected");
        wrong(
            gnp,
            &rule("{action: Allow, protocol: TCP, destination: {ports: [70000]}}"),
            "spec.ingress[0].destination.ports[0]: a port from 1 to 65535, a range such as 80:90 or the name of a port is expected, not 70000",
        );
        wrong(
            gnp,
            &rule("{action: Allow, source: {nets: [10.0.0.0/33]}}"),
            r#"spec.ingress[0].source.nets[0]: an IP prefix such as 10.1.0.0/24 is expected, not "10.0.0.0/33""#,
        );
        wrong(
            "Profile",
            "{labelsToApply: {a: yes please}}",
            r#"spec.labelsToApply[a]: a label's value is up to 63 letters, digits, '-', '_' and '.', not "yes please""#,
        );
        wrong(
            "Profile",
            "{labelsToApply: {a: 1}}",
            "spec.labelsToApply[a]: a text is expected, not 1; put it in quotes",
        );
        assert_eq!(problems("Tier", "a", "7"), ["spec: an object is expected"]);
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let gnp = "GlobalNetworkPolicy";
        wrong(
            gnp,
            &rule("{action: Allow, source: {nets: [10.0.0.0/8]}, destination: {nets: ['fd00::/8']}}"),
            "spec.ingress[0].destination.nets[0]: fd00::/8 is IPv6, and the rule is for IPv4: make two rules",
        );
        wrong(
            gnp,
            &rule("{action: Allow, ipVersion: 6, source: {nets: [10.0.0.0/8]}}"),
            "spec.ingress[0].source.nets[0]: 10.0.0.0/8 is IPv4, and the rule is for IPv6: make two rules",
        );
        wrong(
            gnp,
            &rule("{action: Allow, destination: {ports: [80]}}"),
            "spec.ingress[0].destination.ports: protocol TCP, UDP or SCTP is needed with ports",
        );
        wrong(
            gnp,
            &rule("{action: Allow, protocol: TCP, icmp: {type: 8}}"),
            "spec.ingress[0].icmp: protocol ICMP or ICMPv6 is needed",
        );
        wrong(gnp, "{types: [Ingress, Ingress]}", r#"spec.types: "Ingress" stands twice"#);
        wrong(
            gnp,
            "{preDNAT: true, applyOnForward: true, types: [Egress]}",
            "spec.types: a policy with preDNAT is for Ingress only",
        );
        wrong(gnp, "{preDNAT: true}", "spec.applyOnForward: it must be true together with preDNAT");
    }

    #[test]
    fn names_are_checked() {
        for (kind, name, part) in [
            ("Tier", "A", "lower case letters"),
            ("Tier", "a.b", "no '.'"),
            ("Profile", "projectcalico-default-allow", "never stored"),
            ("Profile", "kns.default", "Kubernetes"),
            ("Tier", &"a".repeat(64), "up to 63"),
            ("GlobalNetworkPolicy", "a.b.c", "one '.'"),
            ("FelixConfiguration", "mine", "default is expected"),
            ("GlobalNetworkPolicy", "a/b", "lower case letters"),
        ] {
            let found = problems(kind, name, "{}");
            assert!(found.len() == 1 && found[0].starts_with("metadata.name: "), "{found:?}");
            assert!(found[0].contains(part), "{found:?}");
        }
        for kind in ["Tier", "GlobalNetworkPolicy"] {
            let name = if kind == "Tier" { "a".repeat(63) } else { "a.b".to_owned() };
            assert!(problems(kind, &name, "{}").is_empty());
        }
    }

    #[test]
    fn addresses_of_nodes_are_checked() {
        let right = "{ipv4VXLANTunnelAddr: 10.1.0.1, ipv6VXLANTunnelAddr: '', bgp: {ipv4Address: 10.0.0.1, routeReflectorClusterID: 1.0.0.1}}";
        assert!(problems("Node", "a", right).is_empty());
        for (spec, sentence) in [
            ("{ipv4VXLANTunnelAddr: x}", "ipv4VXLANTunnelAddr: an IPv4 address is expected, not \"x\""),
            (
                "{ipv6VXLANTunnelAddr: 10.1.0.1}",
                "ipv6VXLANTunnelAddr: an IPv6 address is expected, not \"10.1.0.1\"",
            ),
            (
                "{bgp: {ipv4IPIPTunnelAddr: 10.0.0.1/24}}",
                "bgp.ipv4IPIPTunnelAddr: an IPv4 address is expected, not \"10.0.0.1/24\"",
            ),
            (
                "{bgp: {routeReflectorClusterID: 7}}",
                "bgp.routeReflectorClusterID: an IPv4 address is expected, not 7",
            ),
            ("{bgp: {}}", "bgp: it is empty; leave it out"),
        ] {
            assert_eq!(problems("Node", "a", spec), [format!("spec.{sentence}")]);
        }
    }

    #[test]
    fn calicos_own_tiers_stay_as_they_are() {
        assert!(problems("Tier", "default", "{order: 1000000}").is_empty());
        for (name, order) in [("kube-admin", 1_000), ("kube-baseline", 10_000_000)] {
            let spec = format!("{{order: {order}, defaultAction: Pass}}");
            assert!(problems("Tier", name, &spec).is_empty(), "{name}");
            assert_eq!(
                problems("Tier", name, &format!("{{order: {order}}}")),
                [format!("spec.defaultAction: that of tier {name} is Pass and cannot be changed")]
            );
        }
        assert!(problems("Tier", "default", "{}").is_empty(), "as Calico stored it before 3.30");
        assert_eq!(
            problems("Tier", "default", "{order: 5}"),
            ["spec.order: the order of tier default is 1000000 and cannot be changed"]
        );
        assert_eq!(
            problems("Tier", "kube-admin", "{defaultAction: Pass}"),
            ["spec.order: the order of tier kube-admin is 1000 and cannot be changed"]
        );
    }

    #[test]
    fn what_works_otherwise_than_it_looks_is_doubted() {
        let text = "kind: GlobalNetworkPolicy\napiVersion: projectcalico.org/v3\nmetadata: {name: a}\nspec: {ingress: [{action: Allow, http: {methods: [GET]}}]}\n";
        let document = &read(text).unwrap()[0];
        assert_eq!(check(document), Vec::<String>::new());
        assert!(doubts(document)[0].contains("http clause"), "{:?}", doubts(document));
    }
}
