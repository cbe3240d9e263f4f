//! A policy with everything that rules can say, for tests.

use crate::policy::{Changes, Graph, Update};
use serde_json::{Value, json};

/// Everything below Calico's resources that the tests use.
pub(crate) fn put(graph: &mut Graph, key: &str, value: &Value) {
    let key = format!("{}{key}", crate::model::key::RESOURCE_ROOT);
    graph.update(Update::from_entry(&key, Some(value.to_string().as_bytes())).expect("a key of policy"));
}

/// An endpoint of node `here` behind `cali<number>`.
pub(crate) fn endpoint(graph: &mut Graph, number: u8, labels: &Value) {
    let spec = json!({
        "node": "here", "interfaceName": format!("cali{number}"), "profiles": ["open"],
        "ipNetworks": [format!("10.65.0.{number}/32"), format!("fd65::{number:x}/128")],
        "ports": [{"name": "web", "protocol": "TCP", "port": 8000 + u32::from(number)}],
    });
    let key = format!("workloadendpoints/libnetwork/here-libnetwork-libnetwork-{number}");
    put(graph, &key, &json!({"metadata": {"labels": labels}, "spec": spec}));
}

/// Rules of every form.
pub(crate) fn rules() -> Value {
    let tcp = |from: Value, to: Value| json!({"action": "Allow", "protocol": "TCP", "source": from, "destination": to});
    json!([
        {"action": "Allow", "protocol": "ICMP", "icmp": {"type": 8}},
        {"action": "Deny", "protocol": "ICMPv6", "notICMP": {"type": 1, "code": 3}},
        {"action": "Log", "protocol": "TCP", "destination": {"ports": [80, "1000:2000", "web"], "selector": "role == 'web'"}},
        tcp(json!({"nets": ["10.0.0.0/8"]}), json!({"ports": ["1:1023"]})),
        tcp(json!({"nets": ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/24"]}), json!({"ports": [80, 443]})),
        tcp(json!({"notNets": ["fd00::/8"]}), json!({"notPorts": [22]})),
        tcp(json!({"notNets": ["fd00::/8", "fe80::/10"]}), json!({"notPorts": [22, "100:200"]})),
        tcp(json!({"selector": "all()"}), json!({"ports": ["web", 80, "9000:9100"]})),
        tcp(json!({"notSelector": "role == 'web'", "ports": ["web"]}), json!({"notPorts": ["web"]})),
        {"action": "Pass", "notProtocol": "UDP", "ipVersion": 6},
        {"action": "Allow", "protocol": 47},
    ])
}

/// A graph with two endpoints, a profile, and a policy with [`rules`].
pub(crate) fn graph() -> Graph {
    let mut graph = Graph::new("here");
    let allow = json!([{"action": "Allow"}]);
    put(&mut graph, "profiles/open", &json!({"spec": {"ingress": allow, "egress": allow}}));
    put(&mut graph, "tiers/default", &json!({"spec": {"order": 1_000_000}}));
    let policy = json!({"spec": {
        "selector": "role == 'web'", "types": ["Ingress", "Egress"], "ingress": rules(), "egress": rules(),
    }});
    put(&mut graph, "globalnetworkpolicies/all-kinds", &policy);
    endpoint(&mut graph, 1, &json!({"role": "web"}));
    endpoint(&mut graph, 2, &json!({}));
    graph
}

/// What [`graph`] tells at first.
pub(crate) fn changes() -> Changes {
    let changes = graph().flush();
    assert!(changes.problems.is_empty(), "{:?}", changes.problems);
    changes
}
