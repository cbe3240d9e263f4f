//! dataplane 6.2.

use super::world::*;
use serde_json::{Value, json};

fn policy(types: Value, ingress: Value, egress: Value) -> World {
    let mut world = World::open_mesh();
    let mut spec = json!({"selector": "name == 'a'", "ingress": ingress, "egress": egress});
    if !types.is_null() {
        spec["types"] = types;
    }
    world.policy("p", spec);
    world
}

#[test]
fn an_ingress_policy_limits_who_comes_in() {
    let world = policy(json!(["Ingress"]), json!([from("Allow", "name == 'b'")]), json!([]));
    world.blocked(&["c>a", "ext>a"]);
}

#[test]
fn an_egress_policy_limits_where_to_go() {
    let world = policy(json!(["Egress"]), json!([]), json!([to("Allow", "name == 'b'")]));
    world.blocked(&["a>c", "a>ext"]);
}

#[test]
fn ingress_rules_with_both_types_close_egress() {
    let world = policy(json!(["Ingress", "Egress"]), json!([from("Allow", "name == 'b'")]), json!([]));
    world.blocked(&["c>a", "ext>a", "a>b", "a>c", "a>ext"]);
}

#[test]
fn rules_of_a_direction_that_types_leave_out_are_ignored() {
    let egress = json!([to("Deny", "all()")]);
    policy(json!(["Ingress"]), json!([rule("Allow")]), egress.clone()).blocked(&[]);
    policy(json!(["Ingress", "Egress"]), json!([rule("Allow")]), egress).blocked(&["a>b", "a>c", "a>ext"]);
}

#[test]
fn a_policy_without_rules_denies_its_direction() {
    policy(json!(["Ingress"]), json!([]), json!([])).blocked(&["b>a", "c>a", "ext>a"]);
}

#[test]
fn absent_types_mean_both_directions() {
    let world = policy(Value::Null, json!([rule("Allow")]), json!([]));
    world.blocked(&["a>b", "a>c", "a>ext"]);
    let world = policy(json!([]), json!([]), json!([rule("Allow")]));
    world.blocked(&["b>a", "c>a", "ext>a"]);
}

#[test]
fn deleting_a_policy_restores_what_was_before() {
    let mut world = World::open_mesh();
    let before = world.kernel.clone();
    world.policy("p", json!({"selector": "name == 'a'", "ingress": [from("Allow", "name == 'b'")]}));
    assert_ne!(world.kernel, before);
    world.delete("globalnetworkpolicies/p");
    world.blocked(&[]);
    assert_eq!(world.kernel, before);
}
