//! The cases.

use crate::lab::{Documents, Lab, endpoint, open_mesh};
use crate::nsrun::{have, in_namespace};
use serde_json::{Value, json};

/// What differs from the open mesh (`null` deletes), and what then holds.
struct Case {
    title: &'static str,
    change: Vec<(String, Value)>,
    expect: &'static [&'static str],
}

fn case(
    title: &'static str,
    change: impl IntoIterator<Item = (String, Value)>,
    expect: &'static [&'static str],
) -> Case {
    Case { title, change: change.into_iter().collect(), expect }
}

/// Runs the cases one after the other, each on the open mesh, which stands again between them.
fn play(test: &str, cases: fn() -> Vec<Case>) {
    if !have("nft", "nft") {
        return;
    }
    in_namespace(test, || {
        let mut lab = Lab::start();
        lab.expect("the open mesh", "tcp/80: all");
        for Case { title, change, expect } in cases() {
            let mut documents: Documents = open_mesh();
            for (key, value) in change {
                if value.is_null() {
                    documents.remove(&key);
                } else {
                    documents.insert(key, value);
                }
            }
            let took = lab.become_(&documents);
            println!("{title} ({took:?})");
            // What the kernel has reads back as it was meant; otherwise this would count as a repair.
            lab.block(lab.dataplane.resync()).unwrap();
            expect.iter().for_each(|line| lab.expect(title, line));
            lab.become_(&open_mesh());
        }
        lab.expect("the open mesh again", "tcp/80: all");
        assert_eq!(lab.dataplane.status().borrow().repairs, 1, "each table read back as it was meant");
    });
}

fn profile(name: &str, ingress: Value, egress: Value, labels: Value) -> (String, Value) {
    (
        format!("profiles/{name}"),
        json!({"spec": {"ingress": ingress, "egress": egress, "labelsToApply": labels}}),
    )
}

fn gnp(name: &str, spec: Value) -> (String, Value) {
    (format!("globalnetworkpolicies/{name}"), json!({"metadata": {"name": name}, "spec": spec}))
}

fn np(namespace: &str, name: &str, spec: Value) -> (String, Value) {
    (format!("networkpolicies/{namespace}/{name}"), json!({"metadata": {"name": name}, "spec": spec}))
}

fn tier(name: &str, spec: Value) -> (String, Value) {
    (format!("tiers/{name}"), json!({"spec": spec}))
}

fn netset(name: &str, labels: Value, nets: Value) -> (String, Value) {
    (format!("globalnetworksets/{name}"), json!({"metadata": {"labels": labels}, "spec": {"nets": nets}}))
}

/// In to a, by these rules.
fn to_a(rules: Value) -> (String, Value) {
    gnp("to-a", json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": rules}))
}

/// Out of a, by these rules.
fn from_a(rules: Value) -> (String, Value) {
    gnp("from-a", json!({"selector": "name == 'a'", "types": ["Egress"], "egress": rules}))
}

fn allow_from(selector: &str) -> Value {
    json!({"action": "Allow", "source": {"selector": selector}})
}

fn allow_to(selector: &str) -> Value {
    json!({"action": "Allow", "destination": {"selector": selector}})
}

fn tcp_to(destination: Value) -> Value {
    json!({"action": "Allow", "protocol": "TCP", "destination": destination})
}

fn network(name: &str) -> (String, Value) {
    let label = format!("network/{name}");
    let from_same = allow_from(&format!("has({label})"));
    profile(name, json!([from_same]), json!([{"action": "Allow"}]), json!({label: ""}))
}

#[test]
fn profiles_decide_where_no_policy_does() {
    play("cases::profiles_decide_where_no_policy_does", || {
        let allow = || json!([{"action": "Allow"}]);
        vec![
            case("no profile, no policy", [endpoint("a", &json!({}), &[])], &["tcp/80: all -a>* -*>a"]),
            case(
                "a profile that is missing",
                [endpoint("a", &json!({}), &["gone"])],
                &["tcp/80: all -a>* -*>a"],
            ),
            case(
                "two networks",
                [
                    network("red"),
                    network("blue"),
                    endpoint("a", &json!({}), &["red"]),
                    endpoint("b", &json!({}), &["red"]),
                    endpoint("c", &json!({}), &["blue"]),
                ],
                &["tcp/80: none +a>b +b>a +*>x", "udp/80: none +a>b +b>a +*>x", "ping: none +a>b +b>a +*>x"],
            ),
            case(
                "a profile that gives no labels",
                [
                    profile("red", json!([allow_from("has(network/red)")]), allow(), json!({})),
                    endpoint("a", &json!({}), &["red"]),
                    endpoint("b", &json!({}), &["red"]),
                ],
                &["tcp/80: all -*>a -*>b"],
            ),
            case(
                "the second profile allows",
                [
                    profile("none", json!([]), json!([]), json!({})),
                    endpoint("a", &json!({}), &["none", "open"]),
                ],
                &["tcp/80: all"],
            ),
            case(
                "a profile denies before it allows",
                [
                    profile("deny", json!([{"action": "Deny"}, {"action": "Allow"}]), allow(), json!({})),
                    endpoint("a", &json!({}), &["deny", "open"]),
                ],
                &["tcp/80: all -*>a"],
            ),
            case(
                "pass ends a profile only",
                [
                    profile("pass", json!([{"action": "Pass"}, {"action": "Deny"}]), allow(), json!({})),
                    endpoint("a", &json!({}), &["pass", "open"]),
                ],
                &["tcp/80: all"],
            ),
            case(
                "a policy for one direction leaves the other to profiles",
                [to_a(json!([allow_from("name == 'b'")]))],
                &["tcp/80: all -*>a +b>a"],
            ),
        ]
    });
}

#[test]
fn types_say_which_directions_a_policy_is_for() {
    play("cases::types_say_which_directions_a_policy_is_for", || {
        let both = |types: Value, egress: Value| {
            let mut spec =
                json!({"selector": "name == 'a'", "ingress": [allow_from("name == 'b'")], "egress": egress});
            if !types.is_null() {
                spec["types"] = types;
            }
            gnp("both", spec)
        };
        let deny = || json!([{"action": "Deny"}]);
        vec![
            case("egress only", [from_a(json!([allow_to("name == 'b'")]))], &["tcp/80: all -a>* +a>b"]),
            case(
                "both types, ingress rules",
                [both(json!(["Ingress", "Egress"]), json!([]))],
                &["tcp/80: all -*>a -a>* +b>a"],
            ),
            case(
                "egress rules of an ingress policy",
                [both(json!(["Ingress"]), deny())],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "the same for both",
                [both(json!(["Ingress", "Egress"]), deny())],
                &["tcp/80: all -*>a -a>* +b>a"],
            ),
            case("no rules", [to_a(json!([]))], &["tcp/80: all -*>a"]),
            case("no types", [both(Value::Null, json!([]))], &["tcp/80: all -*>a -a>* +b>a"]),
        ]
    });
}

#[test]
fn order_and_tiers_say_who_decides() {
    play("cases::order_and_tiers_say_who_decides", || {
        let policy = |name: &str, tier: &str, order: Value, action: &str| {
            let mut spec = json!({"selector": "name == 'a'", "types": ["Ingress"], "tier": tier,
                "ingress": [{"action": action, "source": {"selector": "name == 'b'"}}]});
            if !order.is_null() {
                spec["order"] = order;
            }
            gnp(name, spec)
        };
        let first = || tier("first", json!({"order": 10}));
        vec![
            case(
                "deny before allow",
                [policy("x", "default", json!(10), "Deny"), policy("y", "default", json!(20), "Allow")],
                &["tcp/80: all -*>a"],
            ),
            case(
                "allow before deny",
                [policy("x", "default", json!(20), "Deny"), policy("y", "default", json!(10), "Allow")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "without order last",
                [policy("x", "default", Value::Null, "Deny"), policy("y", "default", json!(1e6), "Allow")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "equal order by name",
                [policy("y", "default", json!(1), "Deny"), policy("x", "default", json!(1), "Allow")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "a tier passes, the next decides",
                [first(), policy("x", "first", json!(1), "Pass"), policy("y", "default", json!(1), "Allow")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "a tier passes, the next denies",
                [first(), policy("x", "first", json!(1), "Pass"), policy("y", "default", json!(1), "Deny")],
                &["tcp/80: all -*>a"],
            ),
            case(
                "allowed in the first tier",
                [first(), policy("x", "first", json!(1), "Allow"), policy("y", "default", json!(1), "Deny")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "denied in the first tier",
                [first(), policy("x", "first", json!(1), "Deny"), policy("y", "default", json!(1), "Allow")],
                &["tcp/80: all -*>a"],
            ),
            case(
                "pass skips the rest of the tier",
                [first(), policy("x", "first", json!(1), "Pass"), policy("y", "first", json!(2), "Deny")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "end of a tier passes",
                [
                    tier("first", json!({"order": 10, "defaultAction": "Pass"})),
                    policy("x", "first", json!(1), "Deny"),
                ],
                &["tcp/80: all -b>a"],
            ),
            case(
                "a tier for others",
                [
                    first(),
                    gnp("x", json!({"selector": "name == 'b'", "tier": "first", "types": ["Ingress"]})),
                ],
                &["tcp/80: all -*>b"],
            ),
            case(
                "pass in the last tier",
                [policy("x", "default", json!(1), "Pass")],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "a tier that does not exist",
                [policy("x", "nowhere", json!(1), "Deny"), policy("y", "default", json!(1), "Pass")],
                &["tcp/80: all -*>a"],
            ),
            case(
                "log decides nothing",
                [to_a(json!([{"action": "Log"}, allow_from("name == 'b'")]))],
                &["tcp/80: all -*>a +b>a"],
            ),
            case("log alone", [to_a(json!([{"action": "Log"}]))], &["tcp/80: all -*>a"]),
            case(
                "for hosts only",
                [
                    gnp(
                        "x",
                        json!({"selector": "all()", "types": ["Ingress"], "doNotTrack": true, "applyOnForward": true, "ingress": [{"action": "Deny"}]}),
                    ),
                    gnp(
                        "y",
                        json!({"selector": "all()", "types": ["Ingress"], "preDNAT": true, "applyOnForward": true, "ingress": [{"action": "Deny"}]}),
                    ),
                ],
                &["tcp/80: all"],
            ),
            case(
                "groups of selectors",
                [
                    gnp(
                        "p1",
                        json!({"selector": "has(name)", "order": 1, "types": ["Ingress"], "ingress": [allow_from("name == 'b'")]}),
                    ),
                    gnp(
                        "p2",
                        json!({"selector": "name == 'a'", "order": 2, "types": ["Ingress"], "ingress": [{"action": "Deny", "source": {"selector": "name == 'c'"}}]}),
                    ),
                    gnp(
                        "p3",
                        json!({"selector": "has(name)", "order": 3, "types": ["Ingress"], "ingress": [{"action": "Allow"}]}),
                    ),
                ],
                &["tcp/80: all -c>a"],
            ),
        ]
    });
}

#[test]
fn selectors_say_who_is_meant() {
    play("cases::selectors_say_who_is_meant", || {
        let nets = |name: &str, nets: Value| netset(name, json!({"set": "yes"}), nets);
        let from_set = || to_a(json!([allow_from("set == 'yes'")]));
        vec![
            case(
                "a label",
                [
                    to_a(json!([allow_from("role == 'web'")])),
                    endpoint("b", &json!({"role": "web"}), &["open"]),
                ],
                &["tcp/80: all -*>a +b>a"],
            ),
            case("nobody has the label", [to_a(json!([allow_from("role == 'web'")]))], &["tcp/80: all -*>a"]),
            case(
                "who has it not, also outside",
                [to_a(json!([{"action": "Allow", "source": {"notSelector": "name == 'b'"}}]))],
                &["tcp/80: all -b>a"],
            ),
            case(
                "with and without",
                [to_a(
                    json!([{"action": "Allow", "source": {"selector": "has(name)", "notSelector": "name == 'b'"}}]),
                )],
                &["tcp/80: all -*>a +c>a"],
            ),
            case("all() is all endpoints", [to_a(json!([allow_from("all()")]))], &["tcp/80: all -x>a"]),
            case(
                "a set of prefixes",
                [from_set(), nets("s", json!(["192.0.2.0/24", "2001:db8::/64"]))],
                &["tcp/80: all -*>a +x>a"],
            ),
            case("of everything", [from_set(), nets("s", json!(["0.0.0.0/0", "::/0"]))], &["tcp/80: all"]),
            case(
                "as destination",
                [
                    from_a(json!([allow_to("set == 'yes'")])),
                    nets("s", json!(["192.0.2.2/32", "2001:db8::2"])),
                ],
                &["tcp/80: all -a>* +a>x"],
            ),
            case(
                "two that overlap",
                [
                    from_set(),
                    nets("s", json!(["10.65.0.2/32", "10.65.0.0/30", "fd65::2", "fd65::/126"])),
                    nets("t", json!(["10.65.0.3/32", "fd65::3"])),
                ],
                &["tcp/80: all -x>a"],
            ),
            case(
                "neighbours",
                [from_set(), nets("s", json!(["10.65.0.2/32", "10.65.0.3/32", "fd65::2", "fd65::3"]))],
                &["tcp/80: all -x>a"],
            ),
            case(
                "one of the neighbours",
                [from_set(), nets("s", json!(["10.65.0.3/32", "fd65::3"]))],
                &["tcp/80: all -*>a +c>a"],
            ),
            case(
                "the other",
                [from_set(), nets("s", json!(["10.65.0.2/32", "fd65::2"]))],
                &["tcp/80: all -*>a +b>a"],
            ),
            case(
                "a policy of our namespace",
                [np("libnetwork", "p", json!({"selector": "name == 'a'", "types": ["Ingress"]}))],
                &["tcp/80: all -*>a"],
            ),
            case(
                "and of another",
                [np("other", "p", json!({"selector": "name == 'a'", "types": ["Ingress"]}))],
                &["tcp/80: all"],
            ),
            case(
                "its selectors stay in the namespace",
                [
                    np(
                        "libnetwork",
                        "p",
                        json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [allow_from("has(name) || set == 'yes'")]}),
                    ),
                    nets("s", json!(["192.0.2.0/24", "2001:db8::/64"])),
                ],
                &["tcp/80: all -x>a"],
            ),
            case(
                "its prefixes do not",
                [np(
                    "libnetwork",
                    "p",
                    json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [
                    {"action": "Allow", "source": {"nets": ["192.0.2.0/24"]}}, {"action": "Allow", "source": {"nets": ["2001:db8::/64"]}}]}),
                )],
                &["tcp/80: all -*>a +x>a"],
            ),
            case(
                "an endpoint's label beats its profile's",
                [
                    profile(
                        "open",
                        json!([{"action": "Allow"}]),
                        json!([{"action": "Allow"}]),
                        json!({"role": "web"}),
                    ),
                    endpoint("b", &json!({"role": "db"}), &["open"]),
                    to_a(json!([allow_from("role == 'web'")])),
                ],
                &["tcp/80: all -*>a +c>a"],
            ),
            case(
                "a selector that cannot be read closes",
                [gnp(
                    "bad",
                    json!({"selector": "name == 'a'", "types": ["Ingress"], "ingress": [allow_from("name ==")]}),
                )],
                &["tcp/80: all -*>a"],
            ),
        ]
    });
}

#[test]
fn ports_and_protocols_are_told_apart() {
    play("cases::ports_and_protocols_are_told_apart", || {
        let many: Vec<u16> = (2000..2040).chain([80]).collect();
        vec![
            case(
                "a number",
                [to_a(json!([tcp_to(json!({"ports": [80]}))]))],
                &["tcp/80: all", "tcp/81: all -*>a", "udp/80: all -*>a"],
            ),
            case(
                "a range",
                [to_a(json!([tcp_to(json!({"ports": ["80:90"]}))]))],
                &["tcp/80: all", "tcp/90: all", "tcp/443: all -*>a"],
            ),
            case(
                "a list",
                [to_a(json!([tcp_to(json!({"ports": [80, 443, "1000:2000"]}))]))],
                &["tcp/80: all", "tcp/1500: all", "tcp/443: all", "tcp/81: all -*>a"],
            ),
            case(
                "a long list",
                [to_a(json!([tcp_to(json!({"ports": many}))]))],
                &["tcp/80: all", "tcp/81: all -*>a"],
            ),
            case(
                "not a number",
                [to_a(json!([tcp_to(json!({"notPorts": [80]}))]))],
                &["tcp/81: all", "tcp/80: all -*>a"],
            ),
            case(
                "not in a list",
                [to_a(json!([tcp_to(json!({"notPorts": [80, "400:500"]}))]))],
                &["tcp/81: all", "tcp/443: all -*>a", "tcp/80: all -*>a"],
            ),
            case(
                "both",
                [to_a(json!([tcp_to(json!({"ports": [80, 81], "notPorts": [80]}))]))],
                &["tcp/81: all", "tcp/80: all -*>a"],
            ),
            case(
                "a name",
                [gnp(
                    "p",
                    json!({"selector": "has(name)", "types": ["Ingress"], "ingress": [tcp_to(json!({"ports": ["web"]}))]}),
                )],
                &["tcp/8001: none +*>a +*>x", "tcp/8002: none +*>b +*>x", "udp/8001: none +*>x"],
            ),
            case(
                "a name on the way out",
                [from_a(json!([tcp_to(json!({"ports": ["web"]}))]))],
                &["tcp/8002: all -a>* +a>b", "tcp/80: all -a>*"],
            ),
            case(
                "a name or a number",
                [from_a(json!([tcp_to(json!({"ports": ["web", 80]}))]))],
                &["tcp/8003: all -a>* +a>c", "tcp/80: all", "tcp/81: all -a>*"],
            ),
            case(
                "neither name nor number",
                [from_a(json!([tcp_to(json!({"notPorts": ["web", 80]}))]))],
                &["tcp/8003: all -a>c", "tcp/80: all -a>*", "tcp/81: all"],
            ),
            case(
                "a name of whom a selector matches",
                [from_a(json!([tcp_to(json!({"ports": ["web"], "selector": "name == 'b'"}))]))],
                &["tcp/8002: all -a>* +a>b", "tcp/8003: all -a>*"],
            ),
            case(
                "a number and a selector",
                [from_a(json!([tcp_to(json!({"ports": [80, "web"], "selector": "name == 'b'"}))]))],
                &["tcp/80: all -a>* +a>b", "tcp/8002: all -a>* +a>b", "tcp/8003: all -a>*"],
            ),
            case(
                "a name and prefixes",
                [from_a(json!([
                    {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["web"], "nets": ["10.65.0.2/32"]}},
                    {"action": "Allow", "protocol": "TCP", "destination": {"ports": ["web"], "notNets": ["fd65::3/128"]}},
                ]))],
                &[
                    "4 tcp/8002: all -a>* +a>b",
                    "4 tcp/8003: all -a>*",
                    "6 tcp/8002: all -a>* +a>b",
                    "6 tcp/8003: all -a>*",
                ],
            ),
            case(
                "a name without protocol",
                [from_a(json!([{"action": "Allow", "destination": {"ports": ["dns"]}}]))],
                &["udp/8002: all -a>* +a>b", "tcp/8002: all -a>*"],
            ),
            case(
                "a source port",
                [to_a(
                    json!([{"action": "Allow", "protocol": "TCP", "source": {"ports": [5000, "6000:6010"]}}]),
                )],
                &["tcp/80/5000: all", "tcp/80/6003: all", "tcp/80/5001: all -*>a"],
            ),
            case(
                "a source port by name",
                [to_a(json!([{"action": "Allow", "protocol": "TCP", "source": {"ports": ["client"]}}]))],
                &["tcp/80/9002: all -*>a +b>a"],
            ),
            case(
                "udp",
                [to_a(json!([{"action": "Allow", "protocol": "UDP"}]))],
                &["udp/80: all", "tcp/80: all -*>a"],
            ),
            case(
                "not tcp",
                [to_a(json!([{"action": "Allow", "notProtocol": "TCP"}]))],
                &["udp/80: all", "tcp/80: all -*>a", "ping: all"],
            ),
            case(
                "a number of a protocol",
                [to_a(json!([{"action": "Deny", "protocol": 17}, {"action": "Allow"}]))],
                &["udp/80: all -*>a", "tcp/80: all"],
            ),
            case(
                "echo requests",
                [to_a(json!([
                    {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}}, {"action": "Allow", "protocol": "ICMPv6", "icmp": {"type": 128, "code": 0}},
                ]))],
                &["ping: all", "tcp/80: all -*>a"],
            ),
            case(
                "other than echo requests",
                [to_a(json!([
                    {"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8}}, {"action": "Allow", "protocol": "ICMPv6", "notICMP": {"type": 128}},
                ]))],
                &["ping: all -*>a"],
            ),
            case(
                "not this type with this code",
                [to_a(json!([
                    {"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8, "code": 1}}, {"action": "Allow", "protocol": "ICMPv6", "notICMP": {"type": 128, "code": 0}},
                ]))],
                &["4 ping: all", "6 ping: all -*>a"],
            ),
            case(
                "one family",
                [to_a(json!([{"action": "Allow", "ipVersion": 4}]))],
                &["4 tcp/80: all", "6 tcp/80: all -*>a"],
            ),
            case(
                "prefixes of one family",
                [to_a(
                    json!([{"action": "Deny", "source": {"nets": ["10.65.0.0/16", "192.0.2.0/25"]}}, {"action": "Allow"}]),
                )],
                &["4 tcp/80: all -*>a", "6 tcp/80: all"],
            ),
            case(
                "not these prefixes",
                [to_a(json!([{"action": "Allow", "source": {"notNets": ["10.65.0.2/32", "192.0.2.0/24"]}}]))],
                &["4 tcp/80: all -*>a +c>a", "6 tcp/80: all -*>a"],
            ),
            case(
                "ICMPv6 denied everywhere",
                [gnp(
                    "no6",
                    json!({"selector": "all()", "types": ["Ingress", "Egress"],
                "ingress": [{"action": "Deny", "protocol": "ICMPv6"}, {"action": "Allow"}], "egress": [{"action": "Deny", "protocol": "ICMPv6"}, {"action": "Allow"}]}),
                )],
                &["tcp/80: all", "4 ping: all", "6 ping: none"],
            ),
            case(
                "annotations of any kind",
                [to_a(
                    json!([{"action": "Allow", "metadata": {"annotations": {"why": "\"quotes\"\nand \u{1f600}"}}}]),
                )],
                &["tcp/80: all"],
            ),
        ]
    });
}
