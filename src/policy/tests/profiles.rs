//! dataplane 6.1.

use super::world::*;
use serde_json::json;

#[test]
fn an_endpoint_without_profile_and_policy_is_closed() {
    let mut world = World::new();
    world.endpoint("a", json!({}), &[]);
    world.endpoint("b", json!({}), &["projectcalico-default-allow"]);
    world.only(&["b>ext", "ext>b"]);
    assert_eq!(
        world.trace("b", "a", TCP, 80, false).ingress.unwrap().reason.to_string(),
        "no profile allowed it"
    );
}

#[test]
fn an_allow_all_profile_opens_everything() {
    World::open_mesh().blocked(&[]);
}

#[test]
fn a_missing_profile_denies_until_it_appears() {
    let mut world = World::new();
    world.endpoint("a", json!({}), &["late"]);
    world.endpoint("b", json!({}), &["projectcalico-default-allow"]);
    world.only(&["b>ext", "ext>b"]);
    world.profile("late", json!([rule("Allow")]), json!([rule("Allow")]), json!({}));
    world.blocked(&[]);
    world.delete("profiles/late");
    world.only(&["b>ext", "ext>b"]);
}

#[test]
fn a_missing_profile_denies_before_the_next_is_asked() {
    let mut world = World::new();
    world.endpoint("a", json!({}), &["missing", "projectcalico-default-allow"]);
    world.endpoint("b", json!({}), &["projectcalico-default-allow"]);
    world.only(&["b>ext", "ext>b"]);
}

#[test]
fn the_go_plugins_profile_lets_nobody_in_and_labels_to_apply_repair_it() {
    let mut world = World::new();
    world.profile("net", json!([from("Allow", "has(net)")]), json!([rule("Allow")]), json!({}));
    world.profile(
        "other",
        json!([from("Allow", "has(other)")]),
        json!([rule("Allow")]),
        json!({"other": ""}),
    );
    world.endpoint("a", json!({}), &["net"]);
    world.endpoint("b", json!({}), &["net"]);
    world.endpoint("c", json!({}), &["other"]);
    world.only(&["a>ext", "b>ext", "c>ext"]);
    world.profile("net", json!([from("Allow", "has(net)")]), json!([rule("Allow")]), json!({"net": ""}));
    world.only(&["a>b", "b>a", "a>ext", "b>ext", "c>ext"]);
}

#[test]
fn the_first_profile_that_decides_wins() {
    let mut world = World::open_mesh();
    world.profile("deny-b", json!([from("Deny", "name == 'b'")]), json!([]), json!({}));
    world.endpoint("a", json!({"name": "a"}), &["deny-b", "open"]);
    world.blocked(&["b>a"]);
    world.endpoint("a", json!({"name": "a"}), &["open", "deny-b"]);
    world.blocked(&[]);
}

#[test]
fn deny_before_allow_in_a_profile_denies() {
    let mut world = World::open_mesh();
    world.profile("open", json!([rule("Deny"), rule("Allow")]), json!([rule("Allow")]), json!({}));
    world.only(&["a>ext", "b>ext", "c>ext"]);
}

#[test]
fn pass_in_a_profile_ends_only_that_profile() {
    let mut world = World::open_mesh();
    world.profile(
        "pass",
        json!([rule("Pass"), rule("Deny")]),
        json!([rule("Pass"), rule("Deny")]),
        json!({}),
    );
    world.endpoint("a", json!({"name": "a"}), &["pass", "open"]);
    world.blocked(&[]);
    world.endpoint("a", json!({"name": "a"}), &["pass"]);
    assert!(!world.tcp("b", "a"));
}

#[test]
fn an_edited_profile_counts_at_once() {
    let mut world = World::open_mesh();
    world.profile("open", json!([from("Allow", "name == 'a'")]), json!([rule("Allow")]), json!({}));
    world.only(&["a>b", "a>c", "a>ext", "b>ext", "c>ext"]);
}

#[test]
fn a_policy_for_ingress_leaves_egress_to_the_profile() {
    let mut world = World::open_mesh();
    world.profile(
        "open",
        json!([rule("Allow")]),
        json!([to("Deny", "name == 'b'"), rule("Allow")]),
        json!({}),
    );
    world.policy("p", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [rule("Allow")]}));
    world.blocked(&["a>b", "c>b"]);
}

#[test]
fn own_labels_override_inherited_ones() {
    let mut world = World::open_mesh();
    world.profile("tag", json!([]), json!([]), json!({"team": "profile"}));
    world.profile("tag2", json!([]), json!([]), json!({"team": "second"}));
    world.endpoint("a", json!({"team": "own"}), &["open", "tag"]);
    world.endpoint("b", json!({}), &["open", "tag", "tag2"]);
    world.policy(
        "p",
        json!({"selector": "name == 'c'", "types": ["Ingress"], "ingress": [from("Allow", "team == 'profile'")]}),
    );
    world.blocked(&["a>c", "ext>c"]);
    world.delete("profiles/tag");
    world.blocked(&["a>c", "b>c", "ext>c"]);
}

#[test]
fn an_unreadable_profile_denies_and_says_so() {
    let mut world = World::open_mesh();
    world.resource("profiles/open", json!({}), json!({"ingress": [rule("Permit")]}));
    world.only(&[]);
    let text = r#"Profile open denies everything: ingress rule 1: action "Permit" is none of Allow, Deny, Log, Pass"#;
    assert_eq!(world.problems, [text]);
}
