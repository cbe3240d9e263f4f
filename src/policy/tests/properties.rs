//! For any sequence of updates: what the changes add up to is what a graph would say that was told only the end.

use super::kernel::Kernel;
use crate::model::key::RESOURCE_ROOT;
use crate::policy::*;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const SELECTORS: [&str; 12] = [
    "",
    "all()",
    "a == '1'",
    "a != '1'",
    "has(b)",
    "!has(b)",
    "a in {'1', '2'} && has(b)",
    "a == '1' || b == '2'",
    "b not in {'1'}",
    "projectcalico.org/namespace == 'libnetwork'",
    "a ==",
    "(a starts with '1') && !(b == '2')",
];
const NETS: [&str; 9] = [
    "10.0.0.0/8",
    "10.0.0.0/30",
    "10.0.0.1",
    "10.0.0.2/31",
    "fd00::/64",
    "fd00::1",
    "0.0.0.0/0",
    "::/0",
    "nonsense",
];

fn pick(options: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(options)
}

fn labels() -> impl Strategy<Value = Value> {
    prop::collection::btree_map(pick(&["a", "b", "pcns.a"]), pick(&["1", "2", "3"]), 0..3).prop_map(
        |labels| {
            let mut labels = json!(labels);
            labels["projectcalico.org/namespace"] = json!("libnetwork");
            labels
        },
    )
}

fn side() -> impl Strategy<Value = Value> {
    let lists = (
        prop::collection::vec(pick(&NETS[..8]), 0..3),
        prop::collection::vec(pick(&NETS[..6]), 0..2),
        prop::collection::vec(pick(&["80", "90:99", "95:120", "http", "dns"]), 0..3),
        prop::collection::vec(pick(&["http", "80"]), 0..2),
    );
    let selectors = (
        prop::option::of(pick(&SELECTORS[..10])),
        prop::option::weighted(0.2, pick(&SELECTORS[..10])),
        prop::option::weighted(0.2, pick(&["all()", "global()", "a == '1'"])),
    );
    (lists, selectors).prop_map(
        |((nets, not_nets, ports, not_ports), (selector, not_selector, namespaces))| {
            let mut side = json!({"nets": nets, "notNets": not_nets, "ports": ports, "notPorts": not_ports});
            for (field, value) in
                [("selector", selector), ("notSelector", not_selector), ("namespaceSelector", namespaces)]
            {
                if let Some(value) = value {
                    side[field] = json!(value);
                }
            }
            side
        },
    )
}

fn rule() -> impl Strategy<Value = Value> {
    let action =
        prop::sample::select(vec!["Allow", "Allow", "Deny", "Pass", "Log", "Deny", "Allow", "Permit"]);
    (action, prop::sample::select(vec![json!("TCP"), json!("UDP"), json!(132)]), side(), side())
        .prop_map(|(action, protocol, source, destination)| {
            json!({"action": action, "protocol": protocol, "source": source, "destination": destination})
        })
}

fn policy() -> impl Strategy<Value = Value> {
    (
        (pick(&SELECTORS), pick(&["", "default", "t1", "t2"]), prop::option::of(0..3_u8)),
        prop::sample::select(vec![json!([]), json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])]),
        prop::collection::vec(rule(), 0..3),
        prop::collection::vec(rule(), 0..2),
        prop::option::weighted(0.1, pick(&["doNotTrack", "preDNAT"])),
    )
        .prop_map(|((selector, tier, order), types, ingress, egress, host)| {
            let mut spec = json!({
                "selector": selector, "tier": tier, "order": order, "types": types, "ingress": ingress, "egress": egress,
            });
            if let Some(host) = host {
                spec[host] = json!(true);
            }
            spec
        })
}

fn endpoint() -> impl Strategy<Value = (String, Value)> {
    let port = prop::sample::select(vec![
        json!({"name": "http", "protocol": "TCP", "port": 80}),
        json!({"name": "http", "protocol": "UDP", "port": 81}),
        json!({"name": "dns", "protocol": "UDP", "port": 53}),
    ]);
    let place = (pick(&["here", "here", "there"]), 0..4_u8, 0..3_u8);
    let addresses =
        prop::collection::vec(pick(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"]), 0..3);
    let profiles = prop::collection::vec(pick(&["p1", "p2", "p3", "projectcalico-default-allow"]), 0..3);
    (place, labels(), addresses, profiles, prop::collection::vec(port, 0..2)).prop_map(
        |((node, name, interface), labels, addresses, profiles, ports)| {
            let spec = json!({
                "node": node, "ipNetworks": addresses, "profiles": profiles,
                "interfaceName": format!("cali{interface}"), "ports": ports,
            });
            let key = format!("workloadendpoints/libnetwork/{node}-libnetwork-libnetwork-{name}");
            (key, json!({"metadata": {"labels": labels}, "spec": spec}))
        },
    )
}

fn nets() -> impl Strategy<Value = Value> {
    prop::collection::vec(pick(&NETS), 0..4).prop_map(|nets| json!(nets))
}

/// A key and a document, or none to delete it.
fn entry() -> impl Strategy<Value = (String, Option<Value>)> {
    let named = |prefix: &'static str, names: &'static [&'static str]| {
        pick(names).prop_map(move |name| format!("{prefix}/{name}"))
    };
    let set = || {
        (nets(), labels())
            .prop_map(|(nets, labels)| json!({"metadata": {"labels": labels}, "spec": {"nets": nets}}))
    };
    let host = (nets(), labels()).prop_map(|(nets, labels)| {
        json!({"metadata": {"labels": labels}, "spec": {"node": "there", "interfaceName": "*", "expectedIPs": nets}})
    });
    let tier = (prop::option::of(0..3_u8), pick(&["Deny", "Pass"]))
        .prop_map(|(order, end)| json!({"spec": {"order": order, "defaultAction": end}}));
    let profile = (prop::collection::vec(rule(), 0..2), prop::collection::vec(rule(), 0..2), labels())
        .prop_map(|(ingress, egress, labels)| {
            json!({"spec": {"ingress": ingress, "egress": egress, "labelsToApply": labels}})
        });
    let spec = || policy().prop_map(|spec| json!({"spec": spec}));
    let put = prop_oneof![
        4 => endpoint(),
        4 => (named("globalnetworkpolicies", &["x", "y", "z"]), spec()),
        2 => (named("networkpolicies/libnetwork", &["x", "y"]), spec()),
        1 => (named("networkpolicies/other", &["x"]), spec()),
        2 => (named("tiers", &["default", "t1", "t2"]), tier),
        2 => (named("profiles", &["p1", "p2", "kns.libnetwork"]), profile),
        2 => (named("globalnetworksets", &["x", "y"]), set()),
        1 => (named("networksets/libnetwork", &["x"]), set()),
        1 => (named("hostendpoints", &["x"]), host),
    ];
    let broken = pick(&[
        "",
        "{",
        "null",
        "{}",
        r#"{"spec":{"selector":"a == '1'","ingress":1}}"#,
        r#"{"spec":{"order":[]}}"#,
    ]);
    (put, prop::option::weighted(0.8, Just(())), prop::option::weighted(0.1, broken)).prop_map(
        |((key, value), keep, broken)| {
            let value = match broken {
                Some(text) => Value::String(text.to_owned()),
                None => value,
            };
            (key, keep.map(|()| value))
        },
    )
}

fn update((key, value): &(String, Option<Value>)) -> Update {
    let bytes = value.as_ref().map(|value| match value {
        Value::String(raw) => raw.clone().into_bytes(),
        document => serde_json::to_vec(document).unwrap(),
    });
    Update::from_entry(&format!("{RESOURCE_ROOT}{key}"), bytes.as_deref()).unwrap()
}

fn told<'a>(entries: impl IntoIterator<Item = &'a (String, Option<Value>)>) -> (Kernel, Vec<String>) {
    let mut graph = Graph::new("here");
    for entry in entries {
        graph.update(update(entry));
    }
    let mut kernel = Kernel::default();
    kernel.apply(&graph.flush());
    (kernel, graph.problems())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn changes_add_up_to_what_a_fresh_start_says(
        entries in prop::collection::vec(entry(), 1..40),
        flushes in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut graph = Graph::new("here");
        let mut kernel = Kernel::default();
        let mut last: BTreeMap<String, (String, Option<Value>)> = BTreeMap::new();
        for (entry, flush) in entries.iter().zip(flushes) {
            graph.update(update(entry));
            last.insert(entry.0.clone(), entry.clone());
            if flush {
                kernel.apply(&graph.flush());
            }
        }
        kernel.apply(&graph.flush());
        prop_assert!(graph.flush().is_empty(), "a second flush has nothing to say");
        let (fresh, problems) = told(last.values());
        prop_assert_eq!(&kernel, &fresh);
        prop_assert_eq!(graph.problems(), problems);

        for entry in last.values() {
            graph.update(update(&(entry.0.clone(), None)));
        }
        kernel.apply(&graph.flush());
        prop_assert_eq!(kernel, Kernel::default());
    }

    #[test]
    fn the_order_of_updates_does_not_matter(
        (entries, shuffled) in prop::collection::vec(entry(), 1..25).prop_flat_map(|entries| {
            let once: BTreeMap<String, _> = entries.into_iter().map(|entry| (entry.0.clone(), entry)).collect();
            let once: Vec<_> = once.into_values().collect();
            (Just(once.clone()), Just(once).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(told(&entries), told(&shuffled));
    }

    #[test]
    fn repeating_an_update_changes_nothing(entries in prop::collection::vec(entry(), 1..20)) {
        let mut graph = Graph::new("here");
        for entry in &entries {
            graph.update(update(entry));
            graph.flush();
            graph.update(update(entry));
            let changes = graph.flush();
            prop_assert!(changes.is_empty() && changes.problems.is_empty(), "{:?}", changes);
        }
    }

    #[test]
    fn no_document_brings_the_graph_down(
        keys in prop::collection::vec(entry(), 1..6),
        garbage in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 6),
    ) {
        let mut graph = Graph::new("here");
        let mut kernel = Kernel::default();
        for ((entry, garbage), cut) in keys.iter().zip(garbage).zip(cuts) {
            let key = format!("{RESOURCE_ROOT}{}", entry.0);
            let mut bytes = entry.1.as_ref().map(|value| value.to_string().into_bytes()).unwrap_or_default();
            graph.update(Update::from_entry(&key, Some(&garbage)).unwrap());
            bytes.truncate(cut.index(bytes.len() + 1));
            graph.update(Update::from_entry(&key, Some(&bytes)).unwrap());
            kernel.apply(&graph.flush());
            if let Some(at) = bytes.len().checked_sub(2) {
                bytes[at] = *garbage.first().unwrap_or(&b'0');
            }
            graph.update(Update::from_entry(&key, Some(&bytes)).unwrap());
            kernel.apply(&graph.flush());
        }
    }
}
