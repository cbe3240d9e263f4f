//! dataplane 6.3.

use super::world::*;
use crate::policy::Action;
use serde_json::{Value, json};

/// A policy for ingress of `a`.
fn at(tier: &str, order: Value, rules: Value) -> Value {
    let mut spec = json!({"tier": tier, "selector": "name == 'a'", "types": ["Ingress"], "ingress": rules});
    if !order.is_null() {
        spec["order"] = order;
    }
    spec
}

fn decided_by(world: &World) -> String {
    world.trace_in(false, ("b", "a", TCP, 80)).ingress.unwrap().reason.to_string()
}

#[test]
fn the_policy_with_the_lower_order_decides() {
    let mut world = World::open_mesh();
    world.policy("deny", at("default", json!(10), json!([rule("Deny")])));
    world.policy("allow", at("default", json!(20), json!([rule("Allow")])));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.policy("allow", at("default", json!(5.5), json!([rule("Allow")])));
    world.blocked(&[]);
}

#[test]
fn a_policy_without_order_comes_last_and_equals_go_by_name() {
    let mut world = World::open_mesh();
    world.policy("a-none", at("default", Value::Null, json!([rule("Deny")])));
    world.policy("z-some", at("default", json!(1_000_000), json!([rule("Allow")])));
    assert_eq!(decided_by(&world), "GlobalNetworkPolicy z-some ingress rule 1");
    world.policy("y-some", at("default", json!(1e6), json!([rule("Deny")])));
    assert_eq!(decided_by(&world), "GlobalNetworkPolicy y-some ingress rule 1");
    world.delete("globalnetworkpolicies/z-some");
    world.delete("globalnetworkpolicies/y-some");
    world.policy("b-none", at("default", Value::Null, json!([rule("Allow")])));
    assert_eq!(decided_by(&world), "GlobalNetworkPolicy a-none ingress rule 1");
}

#[test]
fn equal_names_go_by_namespace_then_kind() {
    let mut world = World::open_mesh();
    world.resource("networkpolicies/libnetwork/p", json!({}), at("default", json!(1), json!([rule("Deny")])));
    world.policy("p", at("default", json!(1), json!([rule("Allow")])));
    assert_eq!(decided_by(&world), "GlobalNetworkPolicy p ingress rule 1");
}

#[test]
fn the_order_of_policies_does_not_depend_on_their_selectors() {
    let (a, b) = ("name == 'a'", "has(name)");
    for selectors in [[a, a, a], [a, a, b], [a, b, b], [a, b, a], [b, a, b]] {
        for denying in 0..3 {
            let mut world = World::open_mesh();
            for (place, selector) in selectors.into_iter().enumerate() {
                let action = if place == denying { "Deny" } else { "Log" };
                let rules = json!([from(action, "name == 'b'")]);
                let policy =
                    json!({"order": place, "selector": selector, "types": ["Ingress"], "ingress": rules});
                world.policy(&format!("p{place}"), policy);
            }
            world.policy("rest", json!({"order": 9, "types": ["Ingress"], "ingress": [rule("Allow")]}));
            let everyone = selectors[denying] == b;
            world.blocked(if everyone { &["b>a", "b>c"] } else { &["b>a"] });
        }
    }
}

#[test]
fn pass_hands_over_to_the_next_tier() {
    let mut world = World::open_mesh();
    world.tier("first", 1, "Deny");
    world.tier("second", 2, "Deny");
    world.policy("p1", at("first", json!(1), json!([rule("Pass"), rule("Deny")])));
    world.policy("p1b", at("first", json!(2), json!([rule("Deny")])));
    world.policy("p2", at("second", json!(1), json!([from("Allow", "name == 'b'")])));
    world.blocked(&["c>a", "ext>a"]);
    let decision = world.trace_in(false, ("b", "a", TCP, 80)).ingress.unwrap();
    assert_eq!(decision.reason.to_string(), "GlobalNetworkPolicy p2 ingress rule 1");
    assert_eq!(decision.on_the_way.iter().map(|rule| rule.action).collect::<Vec<_>>(), [Action::Pass]);
}

#[test]
fn deny_in_a_tier_beats_allow_in_the_next() {
    let mut world = World::open_mesh();
    world.tier("first", 1, "Deny");
    world.tier("second", 2, "Deny");
    world.policy("p1", at("first", json!(100), json!([from("Deny", "name == 'b'"), rule("Pass")])));
    world.policy("p2", at("second", json!(1), json!([rule("Allow")])));
    world.blocked(&["b>a"]);
    world.tier("second", 0, "Deny");
    world.blocked(&[]);
}

#[test]
fn the_end_of_a_tier_denies_unless_its_default_action_is_pass() {
    let mut world = World::open_mesh();
    world.tier("first", 1, "Deny");
    world.policy("p", at("first", json!(1), json!([from("Allow", "name == 'b'")])));
    world.blocked(&["c>a", "ext>a"]);
    let reason = world.trace_in(true, ("c", "a", TCP, 80)).ingress.unwrap().reason.to_string();
    assert_eq!(reason, "the end of tier first: none of its policies decided");
    world.tier("first", 1, "Pass");
    world.blocked(&[]);
    world.tier("first", 1, "Deny");
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn a_tier_without_policy_for_the_endpoint_is_skipped() {
    let mut world = World::open_mesh();
    world.tier("first", 1, "Deny");
    world.policy("p", at("first", json!(1), json!([])));
    world.blocked(&["b>a", "c>a", "ext>a"]);
    assert!(world.tcp("a", "b"), "egress has no policy");
}

#[test]
fn pass_in_the_last_tier_leaves_it_to_the_profiles() {
    let mut world = World::open_mesh();
    world.policy("p", at("default", json!(1), json!([from("Pass", "name == 'b'")])));
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn staged_policies_have_no_effect() {
    use crate::model::key::RESOURCE_ROOT;
    use crate::policy::Update;
    for key in ["stagedglobalnetworkpolicies/p", "stagednetworkpolicies/libnetwork/p"] {
        assert_eq!(Update::from_entry(&format!("{RESOURCE_ROOT}{key}"), Some(b"{}")), None);
    }
}

#[test]
fn a_tier_that_does_not_exist_comes_last_and_denies() {
    // (53) of tests/conformance.md
    let mut world = World::open_mesh();
    world.tier("default", 1_000_000, "Deny");
    world.policy("early", at("aaa", json!(1), json!([rule("Deny")])));
    world.policy(
        "known",
        at("default", json!(1), json!([from("Allow", "name == 'b'"), from("Pass", "name == 'c'")])),
    );
    world.blocked(&["c>a", "ext>a"]);
    world.tier("aaa", 1, "Pass");
    world.blocked(&["b>a", "c>a", "ext>a"]);
    world.delete("tiers/aaa");
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn a_tier_without_order_comes_after_those_with_one() {
    let mut world = World::open_mesh();
    world.resource("tiers/aaa", json!({}), json!({}));
    world.tier("bbb", 7, "Deny");
    world.policy("in-aaa", at("aaa", json!(1), json!([rule("Deny")])));
    world.policy("in-bbb", at("bbb", json!(1), json!([rule("Allow")])));
    world.blocked(&[]);
}

#[test]
fn log_decides_nothing() {
    let mut world = World::open_mesh();
    world.policy("p", at("default", json!(1), json!([rule("Log"), from("Allow", "name == 'b'")])));
    world.blocked(&["c>a", "ext>a"]);
    let decision = world.trace_in(false, ("b", "a", TCP, 80)).ingress.unwrap();
    assert_eq!(
        decision.on_the_way.iter().map(|rule| (rule.index, rule.action)).collect::<Vec<_>>(),
        [(0, Action::Log)]
    );
    assert_eq!(decision.reason.to_string(), "GlobalNetworkPolicy p ingress rule 2");
}

#[test]
fn policies_for_host_endpoints_only_have_no_effect_and_say_so() {
    for field in ["doNotTrack", "preDNAT"] {
        let mut world = World::open_mesh();
        let mut spec = at("default", json!(1), json!([rule("Deny")]));
        spec[field] = json!(true);
        spec["applyOnForward"] = json!(true);
        world.policy("p", spec);
        world.blocked(&[]);
        assert_eq!(world.problems.len(), 1, "{:?}", world.problems);
        assert!(world.problems[0].contains(field));
    }
}

#[test]
fn apply_on_forward_changes_nothing_for_workloads() {
    let mut world = World::open_mesh();
    let mut spec = at("default", json!(1), json!([from("Allow", "name == 'b'")]));
    spec["applyOnForward"] = json!(true);
    world.policy("p", spec);
    world.blocked(&["c>a", "ext>a"]);
}
