//! What is wrong, said in sentences, and what holds meanwhile.

use super::world::*;
use crate::policy::{LabelOrigin, StandIn, Update};
use serde_json::json;

#[test]
fn an_unreadable_policy_denies_what_it_selects_in_its_place_and_says_so_once() {
    let mut world = World::open_mesh();
    let bad = json!({"selector": "name == 'a'", "order": 5, "types": ["Ingress"], "ingress": [rule("Allow"), rule("Permit")]});
    world.policy("bad", bad.clone());
    world.policy("allow", json!({"order": 10, "types": ["Ingress"], "ingress": [rule("Allow")]}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.policy("bad", bad);
    let text = "GlobalNetworkPolicy bad denies everything for what it selects: ingress rule 2: \
                action \"Permit\" is none of Allow, Deny, Log, Pass";
    assert_eq!(world.problems, [text]);
    assert_eq!(world.graph.problems(), [text]);
    world.policy(
        "bad",
        json!({"selector": "name == 'a'", "order": 5, "types": ["Ingress"], "ingress": [rule("Allow")]}),
    );
    world.blocked(&[]);
    assert!(world.graph.problems().is_empty());
}

#[test]
fn a_policy_that_is_no_policy_denies_what_its_selector_says() {
    let mut world = World::open_mesh();
    world.policy("bad", json!({"selector": "name == 'a'", "types": ["Ingress"], "order": {}, "ingress": 7}));
    world.policy("first", json!({"order": -1e9, "types": ["Ingress"], "ingress": [rule("Allow")]}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
}

#[test]
fn a_policy_whose_selector_cannot_be_read_is_ignored_and_says_so() {
    let mut world = World::open_mesh();
    world.policy("bad", json!({"selector": "name ==", "ingress": [rule("Deny")]}));
    world.policy("worse", json!({"selector": ["name"], "ingress": [rule("Deny")]}));
    world.blocked(&[]);
    assert_eq!(world.problems.len(), 2, "{:?}", world.problems);
    assert!(world.problems[0].starts_with(
        "GlobalNetworkPolicy bad is ignored, because whom it selects cannot be told: selector \"name ==\""
    ));
}

#[test]
fn an_unreadable_change_of_a_good_policy_closes_it() {
    let mut world = World::open_mesh();
    let good = json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [rule("Allow")]});
    world.policy("p", good);
    world.blocked(&[]);
    world.policy(
        "p",
        json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [from("Allow", "a ==")]}),
    );
    world.blocked(&["b>a", "c>a", "ext>a"]);
}

#[test]
fn bad_rules_of_every_sort_close_what_the_policy_selects() {
    let table = [
        json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [70000]}}),
        json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": ["90:80"]}}),
        json!({"action": "Allow", "destination": {"ports": [80]}}),
        json!({"action": "Allow", "protocol": 300}),
        json!({"action": "Allow", "ipVersion": 5}),
        json!({"action": "Allow", "source": {"nets": ["10.0.0.0/8", "10.0.0.0.0/8"]}}),
        json!({"action": "Allow", "source": {"notNets": ["x"]}}),
        json!({"action": "Allow", "source": {"selector": "a == b"}}),
        json!({"action": "Allow", "source": {"notSelector": "("}}),
        json!({"action": "Allow", "source": {"namespaceSelector": "("}}),
        json!({"action": "Allow", "source": {"serviceAccounts": {"selector": "("}}}),
        json!({"action": "Allow", "icmp": {"type": 8}}),
        json!({"action": "Allow", "protocol": {"name": "TCP"}}),
        json!("Allow"),
    ];
    for bad in table {
        let mut world = World::open_mesh();
        world.policy(
            "p",
            json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [bad, rule("Allow")]}),
        );
        world.blocked(&["b>a", "c>a", "ext>a"]);
        assert_eq!(world.problems.len(), 1, "{bad}: {:?}", world.problems);
    }
}

#[test]
fn an_http_clause_is_left_out_with_a_word() {
    let mut world = World::open_mesh();
    let rule = json!({"action": "Allow", "http": {"methods": ["GET"]}});
    world.policy("p", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [rule]}));
    world.blocked(&[]);
    assert_eq!(world.problems.len(), 1);
    assert!(world.problems[0].starts_with("GlobalNetworkPolicy p ingress rule 1 has an http clause"));
}

#[test]
fn a_rule_for_a_service_matches_nothing_and_says_so() {
    let mut world = World::open_mesh();
    let rule = json!({"action": "Allow", "source": {"services": {"name": "s", "namespace": "n"}}});
    world.policy("p", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [rule]}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    assert_eq!(world.problems.len(), 1);
}

#[test]
fn an_unreadable_tier_counts_as_absent() {
    let mut world = World::open_mesh();
    world.tier("t", 1, "Pass");
    world.policy("p", json!({"tier": "t", "selector": "name == 'a'", "types": ["Ingress"]}));
    world.blocked(&[]);
    world.resource("tiers/t", json!({}), json!({"order": "first"}));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    assert!(world.problems[0].starts_with("Tier t counts as absent, so its policies come last and deny: "));
}

#[test]
fn of_two_endpoints_with_one_interface_the_lower_key_has_it() {
    let mut world = World::open_mesh();
    world.endpoint_with("d", json!({"name": "d"}), &["open"], json!({"interfaceName": "calia"}));
    assert_eq!(world.kernel.endpoints.len(), 3);
    assert_eq!(world.kernel.endpoints["calia"].endpoint.name.as_ref(), "here-libnetwork-libnetwork-a");
    assert_eq!(world.problems.len(), 1);
    assert!(world.problems[0].contains("is not served here: interface calia belongs to WorkloadEndpoint"));
    assert!(!world.tcp("b", "d"));
    world.delete("workloadendpoints/libnetwork/here-libnetwork-libnetwork-a");
    assert_eq!(world.kernel.endpoints["calia"].endpoint.name.as_ref(), "here-libnetwork-libnetwork-d");
    assert!(world.tcp("b", "d"));
    assert!(world.graph.problems().is_empty());
}

#[test]
fn an_endpoint_that_goes_leaves_nothing_behind() {
    let mut world = World::open_mesh();
    world.policy("p", json!({"ingress": [from("Allow", "has(name)")]}));
    for name in ["a", "b", "c"] {
        world.delete(&format!("workloadendpoints/libnetwork/here-libnetwork-libnetwork-{name}"));
    }
    assert_eq!(world.kernel, super::kernel::Kernel::default());
}

#[test]
fn an_explanation_names_labels_tiers_policies_and_profiles() {
    let mut world = World::open_mesh();
    world.profile("tag", json!([]), json!([]), json!({"team": "red"}));
    world.endpoint("a", json!({"name": "a"}), &["open", "tag", "gone"]);
    world.tier("first", 5, "Pass");
    world.policy("p", json!({"tier": "first", "order": 3, "selector": "name == 'a'", "types": ["Ingress"], "ingress": [rule("Pass")]}));
    world.policy(
        "q",
        json!({"tier": "lost", "selector": "team == 'red'", "types": ["Ingress"], "ingress": [rule("?")]}),
    );
    let told = world.graph.explain("calia").unwrap();
    let team = told.labels.iter().find(|(label, ..)| label == "team").unwrap();
    assert_eq!((team.1.as_str(), &team.2), ("red", &LabelOrigin::Profile("tag".into())));
    let name = told.labels.iter().find(|(label, ..)| label == "name").unwrap();
    assert_eq!(name.2, LabelOrigin::Own);
    let ingress = &told.directions[1];
    let tiers: Vec<_> = ingress.tiers.iter().map(|it| (it.name.as_ref(), it.order, it.exists)).collect();
    assert_eq!(tiers, [("first", Some(5.0), true), ("lost", None, false)]);
    assert_eq!(ingress.tiers[0].policies[0].order, Some(3.0));
    assert_eq!(ingress.tiers[1].policies[0].stand_in, Some(StandIn::Unreadable));
    let profiles: Vec<_> =
        ingress.profiles.iter().map(|it| (it.id.owner.name.as_ref(), it.stand_in)).collect();
    assert_eq!(profiles, [("open", None), ("tag", None), ("gone", Some(StandIn::Missing))]);
    assert_eq!(world.graph.explain("calix"), None);
}

#[test]
fn a_document_of_another_kind_is_refused() {
    let mut world = World::open_mesh();
    let key = |plural: &str| format!("{}{plural}", crate::model::key::RESOURCE_ROOT);
    let Some(Update::Put(_, tier)) = Update::from_entry(&key("tiers/t"), Some(br#"{"spec":{}}"#)) else {
        panic!()
    };
    let Some(Update::Delete(profile)) = Update::from_entry(&key("profiles/open"), None) else { panic!() };
    world.graph.update(Update::Put(profile, tier));
    world.flush();
    world.only(&[]);
    assert_eq!(world.problems, ["Profile open denies everything: its document is of another kind"]);
}

#[test]
fn everything_is_what_the_changes_added_up_to() {
    let mut world = World::open_mesh();
    world.policy("p", json!({"selector": "name == 'a'", "ingress": [from("Allow", "has(name)")]}));
    let mut anew = super::kernel::Kernel::default();
    anew.apply(&world.graph.everything());
    assert_eq!(anew, world.kernel);
    assert!(world.graph.flush().is_empty());
}
