//! dataplane 6.5.

use super::world::*;
use crate::model::IpVersion;
use crate::policy::{Flow, PortRange};
use serde_json::{Value, json};

/// A world with one policy for ingress of `a`, `b` and `c` each on its own, from anyone.
fn rules(rules: Value) -> World {
    let mut world = World::open_mesh();
    world.policy("p", json!({"types": ["Ingress"], "ingress": rules}));
    world
}

fn to_ports(ports: Value) -> World {
    rules(json!([{"action": "Allow", "protocol": "TCP", "destination": {"ports": ports}}]))
}

fn open_ports(world: &World, protocol: u8, ports: impl IntoIterator<Item = u16>) -> Vec<u16> {
    ports.into_iter().filter(|port| world.passes("b", "a", protocol, *port)).collect()
}

#[test]
fn ports_ranges_and_lists_open_what_they_say() {
    let world = to_ports(json!([80, "90:92", "443"]));
    assert_eq!(open_ports(&world, TCP, 75..500), [80, 90, 91, 92, 443]);
    assert!(open_ports(&world, UDP, 75..500).is_empty());
}

#[test]
fn many_ports_are_no_problem() {
    let ports: Vec<u16> = (0..40).map(|it| 1000 + 2 * it).collect();
    assert_eq!(open_ports(&to_ports(json!(ports)), TCP, 990..1100), ports);
}

#[test]
fn overlapping_ranges_are_handed_out_joined() {
    let world = to_ports(json!(["80:90", "85:95", 96, 1]));
    let list = world.kernel.lists.iter().find(|(id, _)| id.owner.name.as_ref() == "p").unwrap().1;
    let expected = [PortRange { first: 1, last: 1 }, PortRange { first: 80, last: 96 }];
    assert_eq!(list.rules[0].destination.ports.ranges, expected);
    assert_eq!((list.rules.len(), list.rules[0].family), (1, None));
}

/// Endpoints whose port `http` is 8001, 8002, 8003, and whose port `dns` is UDP 53.
fn name_ports(world: &mut World) {
    for (place, name) in ["a", "b", "c"].into_iter().enumerate() {
        let ports = json!({"ports": [
            {"name": "http", "protocol": "TCP", "port": 8001 + place},
            {"name": "dns", "protocol": "UDP", "port": 53},
            {"name": "both", "protocol": "TCP", "port": 700},
            {"name": "both", "protocol": "SCTP", "port": 701},
            {"protocol": "TCP", "port": 99, "hostPort": 99},
        ]});
        world.endpoint_with(name, json!({"name": name}), &["open"], ports);
    }
}

#[test]
fn a_named_port_is_each_endpoints_own_number() {
    let mut world = to_ports(json!(["http"]));
    name_ports(&mut world);
    for (name, own) in [("a", 8001), ("b", 8002), ("c", 8003)] {
        let open: Vec<u16> = (8000..8005).filter(|port| world.passes(EXT, name, TCP, *port)).collect();
        assert_eq!(open, [own], "{name}");
    }
    world.delete("globalnetworkpolicies/p");
    let egress = json!([{"action": "Allow", "protocol": "TCP", "destination": {"ports": ["http"]}}]);
    world.policy("q", json!({"selector": "name == 'a'", "types": ["Egress"], "egress": egress}));
    assert!(world.passes("a", "b", TCP, 8002) && world.passes("a", "c", TCP, 8003));
    assert!(!world.passes("a", "b", TCP, 8003) && !world.passes("a", EXT, TCP, 8002));
}

#[test]
fn a_named_port_follows_the_endpoint() {
    let mut world = to_ports(json!(["http"]));
    name_ports(&mut world);
    let ports = json!({"ports": [{"name": "http", "protocol": "TCP", "port": 9000}]});
    world.endpoint_with("a", json!({"name": "a"}), &["open"], ports);
    assert_eq!(open_ports(&world, TCP, [8001, 9000]), [9000]);
    world.endpoint("a", json!({"name": "a"}), &["open"]);
    assert!(open_ports(&world, TCP, [8001, 9000]).is_empty());
}

#[test]
fn not_ports_are_the_complement_by_number_and_name() {
    let not = |ports: Value| {
        let mut world =
            rules(json!([{"action": "Allow", "protocol": "TCP", "destination": {"notPorts": ports}}]));
        name_ports(&mut world);
        open_ports(&world, TCP, [80, 81, 8001, 8002])
    };
    assert_eq!(not(json!([80])), [81, 8001, 8002]);
    assert_eq!(not(json!(["http"])), [80, 81, 8002]);
    assert_eq!(not(json!(["http", "80:81"])), [8002]);
}

#[test]
fn named_ports_and_every_other_clause_must_all_hold() {
    let side = |side: Value| {
        let mut world = rules(json!([{"action": "Allow", "protocol": "TCP", "destination": side}]));
        name_ports(&mut world);
        let targets = [("a", 8001), ("b", 8002), ("c", 8003), ("a", 4000), ("c", 4000), ("a", 8002)];
        let open = targets.iter().filter(|(name, port)| world.passes(EXT, name, TCP, *port));
        open.map(|(name, port)| format!("{name}{port}")).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(side(json!({"ports": ["http", 4000]})), "a8001 b8002 c8003 a4000 c4000");
    assert_eq!(side(json!({"ports": ["http", 4000], "selector": "name != 'c'"})), "a8001 b8002 a4000");
    assert_eq!(side(json!({"ports": ["http"], "selector": "name == 'c'"})), "c8003");
    assert_eq!(side(json!({"ports": ["http", 4000], "notSelector": "name == 'c'"})), "a8001 b8002 a4000");
    assert_eq!(
        side(json!({"ports": ["http"], "selector": "has(name)", "notSelector": "name == 'c'"})),
        "a8001 b8002"
    );
    let nets = json!(["10.65.0.1", "10.65.0.2", "fd00::1", "fd00::2"]);
    assert_eq!(side(json!({"ports": ["http", 4000], "nets": nets})), "a8001 b8002 a4000");
    let not_nets = json!(["10.65.0.2/31", "fd00::2/127"]);
    assert_eq!(side(json!({"ports": ["http"], "notNets": not_nets})), "a8001");
    assert_eq!(side(json!({"ports": ["http"], "nets": nets, "notNets": not_nets})), "a8001");
    assert_eq!(side(json!({"ports": ["http", 4000], "notPorts": ["http"]})), "a4000 c4000");
    assert_eq!(side(json!({"ports": ["http", 8002, 4000], "notPorts": ["http", 4000]})), "a8002");
}

#[test]
fn negated_named_ports_are_those_of_the_positive_selector() {
    let side = json!({"selector": "name == 'a'", "notPorts": ["http"]});
    let mut world = rules(json!([{"action": "Allow", "protocol": "TCP", "destination": side}]));
    name_ports(&mut world);
    assert!(!world.passes(EXT, "a", TCP, 8001) && world.passes(EXT, "a", TCP, 8002));
    assert!(!world.passes(EXT, "b", TCP, 8001));
}

#[test]
fn a_named_port_without_protocol_is_any_of_that_name() {
    let mut world = rules(json!([{"action": "Allow", "destination": {"ports": ["both"]}}]));
    name_ports(&mut world);
    assert!(world.passes("b", "a", TCP, 700) && world.passes("b", "a", SCTP, 701));
    assert!(!world.passes("b", "a", SCTP, 700) && !world.passes("b", "a", UDP, 700));
}

#[test]
fn tcp_and_udp_ports_of_one_number_are_not_confused() {
    let world = to_ports(json!([53]));
    assert!(world.passes("b", "a", TCP, 53) && !world.passes("b", "a", UDP, 53));
    let mut world = to_ports(json!(["dns"]));
    name_ports(&mut world);
    assert!(!world.passes("b", "a", TCP, 53) && !world.passes("b", "a", UDP, 53), "dns is a UDP port");
}

#[test]
fn source_ports_match_by_number_and_by_name() {
    let mut world =
        rules(json!([{"action": "Allow", "protocol": "TCP", "source": {"ports": ["http", "5000:5010"]}}]));
    name_ports(&mut world);
    let passes = |port| {
        let flow = Flow::new("10.65.0.2".parse().unwrap(), "10.65.0.1".parse().unwrap(), TCP, 80);
        world.graph.trace(&Flow { source_port: port, ..flow }).allowed()
    };
    assert!(passes(8002) && passes(5005));
    assert!(!passes(8001) && !passes(5011));
}

#[test]
fn sctp_has_ports() {
    let world = rules(json!([{"action": "Allow", "protocol": "SCTP", "destination": {"ports": [80]}}]));
    assert!(world.passes("b", "a", SCTP, 80) && !world.passes("b", "a", SCTP, 81) && !world.tcp("b", "a"));
}

/// ICMP types and codes that pass from b to a.
fn icmp(rule: Value) -> Vec<(u8, u8)> {
    let world = rules(json!([rule]));
    let flow = Flow::new("10.65.0.2".parse().unwrap(), "10.65.0.1".parse().unwrap(), 1, 0);
    let kinds = [(8, 0), (8, 1), (0, 0), (3, 1), (3, 4)];
    kinds.into_iter().filter(|icmp| world.graph.trace(&Flow { icmp: *icmp, ..flow }).allowed()).collect()
}

#[test]
fn icmp_types_and_codes_match_exactly() {
    assert_eq!(icmp(json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}})), [(8, 0), (8, 1)]);
    assert_eq!(
        icmp(json!({"action": "Allow", "protocol": "ICMP", "icmp": {"type": 3, "code": 4}})),
        [(3, 4)]
    );
    let not = json!({"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8}});
    assert_eq!(icmp(not), [(0, 0), (3, 1), (3, 4)]);
}

#[test]
fn a_negated_type_and_code_excludes_only_both_together() {
    let not = json!({"action": "Allow", "protocol": "ICMP", "notICMP": {"type": 8, "code": 1}});
    assert_eq!(icmp(not), [(8, 0), (0, 0), (3, 1), (3, 4)]);
}

#[test]
fn icmp_by_name_implies_the_family_and_by_number_does_not() {
    let families = |rule: Value| {
        let world = rules(json!([rule]));
        let list = world.kernel.lists.iter().find(|(id, _)| id.owner.name.as_ref() == "p").unwrap().1.clone();
        list.rules.iter().map(|rule| (rule.family, rule.protocol)).collect::<Vec<_>>()
    };
    assert_eq!(families(json!({"action": "Deny", "protocol": "ICMP"})), [(Some(IpVersion::V4), Some(1))]);
    assert_eq!(families(json!({"action": "Deny", "protocol": "icmpv6"})), [(Some(IpVersion::V6), Some(58))]);
    assert_eq!(families(json!({"action": "Deny", "protocol": 58})), [(None, Some(58))]);
    assert_eq!(families(json!({"action": "Deny", "notProtocol": "ICMP"})), [(None, None)]);
}

#[test]
fn denying_icmpv6_leaves_tcp_alone() {
    let world = rules(json!([{"action": "Deny", "protocol": "ICMPv6"}, {"action": "Allow"}]));
    world.blocked(&[]);
    assert!(!world.passes_in(true, ("b", "a", 58, 0)));
}

#[test]
fn protocols_match_by_number_and_negated() {
    let world = rules(json!([{"action": "Allow", "protocol": 47}]));
    assert!(world.passes("b", "a", 47, 0) && !world.passes("b", "a", 46, 0));
    let world = rules(json!([{"action": "Allow", "notProtocol": "TCP"}]));
    assert!(world.passes("b", "a", 47, 0) && world.passes("b", "a", UDP, 80) && !world.tcp("b", "a"));
}

/// Whether b reaches a over IPv4 and over IPv6.
fn families(rule: Value) -> (bool, bool) {
    let world = rules(json!([rule]));
    let flow = ("b", "a", TCP, 80);
    (world.passes_in(false, flow), world.passes_in(true, flow))
}

#[test]
fn prefixes_make_a_rule_of_their_family_only() {
    let allow = |source: Value| json!({"action": "Allow", "source": source});
    assert_eq!(families(allow(json!({"nets": ["10.65.0.0/24"]}))), (true, false));
    assert_eq!(families(allow(json!({"nets": ["fd00::/64"]}))), (false, true));
    assert_eq!(families(allow(json!({"nets": ["10.65.0.0/24", "fd00::/64"]}))), (true, true));
    assert_eq!(families(allow(json!({"notNets": ["10.66.0.0/16"]}))), (true, false));
    assert_eq!(families(json!({"action": "Allow", "ipVersion": 6})), (false, true));
    let across = json!({"action": "Allow", "source": {"nets": ["10.65.0.0/24"]}, "destination": {"nets": ["fd00::/64"]}});
    assert_eq!(families(across), (false, false));
    let partly = json!({
        "action": "Allow",
        "source": {"nets": ["10.65.0.0/24", "fd00::/64"]},
        "destination": {"nets": ["10.65.0.1"]},
    });
    assert_eq!(families(partly), (true, false));
}

#[test]
fn excluding_everything_drops_the_rule_of_that_family_with_a_word() {
    let deny =
        json!([{"action": "Deny", "source": {"notNets": ["0.0.0.0/0", "fd01::/64"]}}, {"action": "Allow"}]);
    let world = rules(deny);
    assert!(world.passes_in(false, ("b", "a", TCP, 80)));
    assert!(!world.passes_in(true, ("b", "a", TCP, 80)));
    assert_eq!(
        world.problems,
        ["GlobalNetworkPolicy p ingress rule 1 excludes 0.0.0.0/0, so it never matches IPv4"]
    );
}

#[test]
fn annotations_of_rules_are_only_comments() {
    let world =
        rules(json!([{"action": "Allow", "metadata": {"annotations": {"a": "line\nend \"quoted\" ☃"}}}]));
    world.blocked(&[]);
    assert!(world.problems.is_empty());
}
