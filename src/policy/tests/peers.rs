//! dataplane 6.4, and the selectors of rules in general.

use super::world::*;
use crate::policy::SetKind;
use serde_json::{Value, json};

/// A world with one policy for ingress of `a`.
fn ingress(rules: Value) -> World {
    let mut world = World::open_mesh();
    world.policy("p", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": rules}));
    world
}

fn source(side: Value) -> World {
    ingress(json!([{"action": "Allow", "source": side}]))
}

#[test]
fn a_peers_label_counts_as_long_as_it_is_there() {
    let mut world = source(json!({"selector": "role == 'web'"}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.endpoint("b", json!({"name": "b", "role": "web"}), &["open"]);
    world.blocked(&["c>a", "ext>a"]);
    world.endpoint("b", json!({"name": "b", "role": "db"}), &["open"]);
    world.blocked(&["b>a", "c>a", "ext>a"]);
}

#[test]
fn a_label_that_policies_select_by_counts_as_long_as_it_is_there() {
    let mut world = World::open_mesh();
    world.policy("p", json!({"selector": "has(closed)", "types": ["Ingress"]}));
    world.blocked(&[]);
    world.endpoint("a", json!({"name": "a", "closed": ""}), &["open"]);
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.endpoint("a", json!({"name": "a"}), &["open"]);
    world.blocked(&[]);
}

#[test]
fn not_selector_alone_matches_the_outside_too() {
    source(json!({"notSelector": "name == 'b'"})).blocked(&["b>a"]);
}

#[test]
fn selector_and_not_selector_are_a_difference() {
    let world = source(json!({"selector": "has(name)", "notSelector": "name == 'b'"}));
    world.blocked(&["b>a", "ext>a"]);
    let list = world.kernel.lists.iter().find(|(id, _)| id.owner.name.as_ref() == "p").unwrap().1;
    assert!(list.rules.iter().all(|rule| rule.source.not_set.is_none()), "folded into one set");
}

#[test]
fn all_is_everything_that_is_known_and_not_the_outside() {
    source(json!({"selector": "all()"})).blocked(&["ext>a"]);
    source(json!({"selector": " "})).blocked(&["ext>a"]);
    source(json!({"selector": ""})).blocked(&[]);
}

#[test]
fn network_sets_are_sources_and_destinations() {
    let mut world = source(json!({"selector": "kind == 'ext'"}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    let nets = json!({"nets": ["192.0.2.0/24", "2001:db8::/32"]});
    world.resource("globalnetworksets/s", json!({"kind": "ext"}), nets.clone());
    world.blocked(&["b>a", "c>a"]);
    world.resource("globalnetworksets/s", json!({"kind": "ext"}), json!({"nets": ["10.65.0.2", "fd00::2"]}));
    world.blocked(&["c>a", "ext>a"]);
    world.resource("globalnetworksets/s", json!({"kind": "other"}), nets.clone());
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.delete("globalnetworkpolicies/p");
    world.resource("globalnetworksets/s", json!({"kind": "ext"}), nets);
    let egress =
        json!({"selector": "name == 'b'", "types": ["Egress"], "egress": [to("Allow", "kind == 'ext'")]});
    world.policy("q", egress);
    world.blocked(&["b>a", "b>c"]);
}

#[test]
fn a_set_of_everything_opens_that_side() {
    let mut world = source(json!({"selector": "kind == 'ext'"}));
    world.resource("globalnetworksets/s", json!({"kind": "ext"}), json!({"nets": ["0.0.0.0/0", "::/0"]}));
    world.blocked(&[]);
}

#[test]
fn two_sets_with_one_label_are_a_union() {
    let mut world = source(json!({"selector": "kind == 'ext'"}));
    let label = || json!({"kind": "ext"});
    world.resource("globalnetworksets/one", label(), json!({"nets": ["10.65.0.2/31", "fd00::2/127"]}));
    world.resource("globalnetworksets/two", label(), json!({"nets": ["10.65.0.3", "fd00::3"]}));
    world.blocked(&["ext>a"]);
    world.delete("globalnetworksets/one");
    world.blocked(&["b>a", "ext>a"]);
    world.delete("globalnetworksets/two");
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.resource("globalnetworksets/two", label(), json!({"nets": ["10.65.0.3", "fd00::3"]}));
    world.blocked(&["b>a", "ext>a"]);
}

#[test]
fn duplicates_and_overlaps_inside_a_set_cover_until_the_last_is_gone() {
    let mut world = source(json!({"selector": "kind == 'ext'"}));
    let label = || json!({"kind": "ext"});
    let nets = json!({"nets": ["10.65.0.0/24", "10.65.0.2", "10.65.0.2/32", "10.65.0.99/24", "fd00::/64", "fd00::2"]});
    world.resource("globalnetworksets/s", label(), nets);
    world.blocked(&["ext>a"]);
    world.resource("globalnetworksets/s", label(), json!({"nets": ["10.65.0.2", "fd00::2"]}));
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn sets_that_come_and_go_quickly_end_right() {
    let mut world = source(json!({"selector": "kind == 'ext'"}));
    for round in 0..200 {
        let nets =
            json!({"nets": [format!("10.65.0.{}", 2 + round % 2), format!("fd00::{}", 2 + round % 2)]});
        world.resource("globalnetworksets/s", json!({"kind": "ext"}), nets);
    }
    world.blocked(&["b>a", "ext>a"]);
}

#[test]
fn a_namespaced_policy_applies_in_its_namespace_only() {
    let mut world = World::open_mesh();
    let deny = json!({"types": ["Ingress"], "selector": "name == 'a'"});
    world.resource("networkpolicies/default/p", json!({}), deny.clone());
    world.blocked(&[]);
    world.resource("networkpolicies/libnetwork/p", json!({}), deny);
    world.blocked(&["b>a", "c>a", "ext>a"]);
}

#[test]
fn a_namespaced_rule_selects_peers_of_its_namespace_only() {
    let mut world = World::open_mesh();
    world.resource(
        "networksets/libnetwork/in",
        json!({"kind": "ext"}),
        json!({"nets": ["10.65.0.2", "fd00::2"]}),
    );
    world.resource(
        "networksets/other/out",
        json!({"kind": "ext"}),
        json!({"nets": ["10.65.0.3", "fd00::3"]}),
    );
    let policy = |source: Value| json!({"types": ["Ingress"], "selector": "name == 'a'", "ingress": [{"action": "Allow", "source": source}]});
    world.resource("networkpolicies/libnetwork/p", json!({}), policy(json!({"selector": "kind == 'ext'"})));
    world.blocked(&["c>a", "ext>a"]);
    let all = json!({"selector": "kind == 'ext'", "namespaceSelector": "all()"});
    world.resource("networkpolicies/libnetwork/p", json!({}), policy(all));
    world.blocked(&["ext>a"]);
    let nets = json!({"nets": ["192.0.2.0/24", "2001:db8::/32"]});
    world.resource("networkpolicies/libnetwork/p", json!({}), policy(nets));
    world.blocked(&["b>a", "c>a"]);
    // By address b would still be a peer, because that network set holds it too.
    world.delete("networksets/libnetwork/in");
    world.resource("networkpolicies/libnetwork/p", json!({}), policy(json!({"notSelector": "name == 'b'"})));
    world.blocked(&["b>a", "ext>a"]);
}

#[test]
fn namespace_selectors_mean_the_labels_that_a_profile_gives() {
    let mut world = source(json!({"namespaceSelector": "team == 'red'"}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.profile("kns.red", json!([]), json!([]), json!({"pcns.team": "red"}));
    world.endpoint("b", json!({"name": "b"}), &["open", "kns.red"]);
    world.endpoint("c", json!({"name": "c", "pcns.team": "red"}), &["open"]);
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn a_network_set_inherits_from_the_profile_of_its_namespace() {
    let mut world = source(json!({"namespaceSelector": "team == 'red'"}));
    world.resource("networksets/red/s", json!({}), json!({"nets": ["10.65.0.2", "fd00::2"]}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.profile("kns.red", json!([]), json!([]), json!({"pcns.team": "red"}));
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn all_and_global_namespaces_part_what_is_known() {
    let mut world = source(json!({"namespaceSelector": "all()"}));
    world.resource("globalnetworksets/s", json!({}), json!({"nets": ["192.0.2.0/24", "2001:db8::/32"]}));
    world.blocked(&["ext>a"]);
    let global = json!([{"action": "Allow", "source": {"namespaceSelector": "global()"}}]);
    world.policy("p", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": global}));
    world.blocked(&["b>a", "c>a"]);
}

#[test]
fn a_global_policys_namespace_selector_narrows_whom_it_is_for() {
    let mut world = World::open_mesh();
    world.policy("p", json!({"types": ["Ingress"], "namespaceSelector": "team == 'red'"}));
    world.blocked(&[]);
    world.profile("kns.red", json!([]), json!([]), json!({"pcns.team": "red"}));
    world.endpoint("b", json!({"name": "b"}), &["open", "kns.red"]);
    world.blocked(&["a>b", "c>b", "ext>b"]);
    world.policy("p", json!({"types": ["Ingress"], "namespaceSelector": "all()"}));
    world.only(&["a>ext", "b>ext", "c>ext"]);
}

#[test]
fn service_accounts_are_matched_by_name_and_label() {
    let mut world =
        source(json!({"serviceAccounts": {"names": ["web", "x"], "selector": "tier == 'front'"}}));
    world.profile("ksa.web", json!([]), json!([]), json!({"pcsa.tier": "front"}));
    world.endpoint_with("b", json!({}), &["open", "ksa.web"], json!({"serviceAccountName": "web"}));
    world.endpoint_with("c", json!({}), &["open"], json!({"serviceAccountName": "web"}));
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn host_endpoints_are_members_by_their_expected_addresses() {
    let mut world = source(json!({"selector": "host == 'yes'"}));
    let spec = json!({"node": "there", "interfaceName": "eth0", "expectedIPs": ["192.0.2.1", "2001:db8::1"]});
    world.resource("hostendpoints/h", json!({"host": "yes"}), spec);
    world.blocked(&["b>a", "c>a"]);
    assert!(world.problems.is_empty());
    let spec = json!({"node": "here", "interfaceName": "eth0", "expectedIPs": ["nonsense"]});
    world.resource("hostendpoints/h", json!({"host": "yes"}), spec);
    world.blocked(&["b>a", "c>a", "ext>a"]);
    assert_eq!(world.problems.len(), 2, "{:?}", world.problems);
}

#[test]
fn selectors_that_mean_the_same_share_one_set() {
    let mut world =
        ingress(json!([from("Log", "role=='web'&&has(x)"), from("Allow", " role == \"web\"  && has( x ) ")]));
    assert_eq!(world.kernel.sets.len(), 1);
    world.policy(
        "q",
        json!({"selector": "name == 'b'", "types": ["Ingress"], "ingress": [from("Allow", "(role == 'web') && has(x)")]}),
    );
    assert_eq!(world.kernel.sets.len(), 1);
    world.delete("globalnetworkpolicies/p");
    assert_eq!(world.kernel.sets.len(), 1);
    world.delete("globalnetworkpolicies/q");
    assert!(world.kernel.sets.is_empty());
}

#[test]
fn only_what_local_endpoints_need_is_handed_out() {
    let mut world = World::open_mesh();
    let idle = world.kernel.clone();
    let spec = json!({"selector": "where == 'there'", "ingress": [from("Allow", "has(name)")]});
    world.policy("p", spec.clone());
    world.endpoint_with("d", json!({"where": "there"}), &["open"], json!({"node": "there"}));
    assert_eq!(world.kernel, idle);
    world.endpoint("c", json!({"name": "c", "where": "there"}), &["open"]);
    assert_eq!(world.kernel.lists.len(), idle.lists.len() + 2);
    assert_eq!(world.kernel.sets.values().next().unwrap().0, SetKind::Nets);
}

#[test]
fn a_policy_needed_on_every_node_is_ready_before_anyone_is_selected() {
    let mut world = World::open_mesh();
    let mut spec =
        json!({"selector": "role == 'none'", "types": ["Ingress"], "ingress": [from("Allow", "has(name)")]});
    spec["performanceHints"] = json!(["AssumeNeededOnEveryNode"]);
    let key = format!("{}globalnetworkpolicies/p", crate::model::key::RESOURCE_ROOT);
    let bytes = serde_json::to_vec(&json!({"spec": spec})).unwrap();
    world.graph.update(crate::policy::Update::from_entry(&key, Some(&bytes)).unwrap());
    let changes = world.graph.flush();
    assert_eq!((changes.sets.len(), changes.rule_lists.len(), changes.shapes.len()), (1, 1, 0));
    world.graph.update(crate::policy::Update::from_entry(&key, None).unwrap());
    let changes = world.graph.flush();
    assert_eq!((changes.removed_sets.len(), changes.removed_rule_lists.len()), (1, 1));
}

#[test]
fn endpoints_with_the_same_policy_share_their_shapes() {
    let world = World::open_mesh();
    assert_eq!(world.kernel.endpoints.len(), 3);
    assert_eq!(world.kernel.shapes.len(), 2);
}

#[test]
fn another_nodes_decision_is_foretold() {
    let mut world = World::open_mesh();
    world.endpoint_with("d", json!({"name": "d"}), &["open"], json!({"node": "there"}));
    world.policy(
        "p",
        json!({"selector": "name == 'd'", "types": ["Ingress"], "ingress": [from("Allow", "name == 'a'")]}),
    );
    world.blocked(&["b>d", "c>d", "ext>d"]);
    let ingress = world.trace("a", "d", TCP, 80, false).ingress.unwrap();
    assert_eq!(ingress.node, "there");
    assert_eq!(ingress.reason.to_string(), "GlobalNetworkPolicy p ingress rule 1");
}
