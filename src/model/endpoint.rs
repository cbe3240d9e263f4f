//! WorkloadEndpoint: one container's attachment (`libcalico-go/lib/apis/internalapi/workloadendpoint.go`).

use super::meta::Kind;
use super::{EndpointId, NodeName, ORCHESTRATOR};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a WorkloadEndpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadEndpointSpec {
    /// Always `libnetwork` for ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub orchestrator: String,
    /// Always `libnetwork` for ours.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub workload: String,
    /// The node that the endpoint lives on; the same as in the name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Docker's endpoint ID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// Addresses, each a /32 or /128.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ip_networks: Vec<String>,
    /// Profiles, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub profiles: Vec<String>,
    /// Host side of the veth; begins with Felix's interface prefix.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// The container interface's address, lower case with colons.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mac: String,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for WorkloadEndpointSpec {
    const KIND: &'static str = "WorkloadEndpoint";
    const PLURAL: &'static str = "workloadendpoints";
}

/// The name Calico demands: node, orchestrator, orchestrator again and endpoint, each with `-` doubled, joined by
/// single `-` (`libcalico-go/lib/names/workloadendpoint.go`).
#[must_use]
pub fn endpoint_name(node: &NodeName, endpoint: &EndpointId) -> String {
    format!("{}{}", endpoint_name_prefix(node), endpoint.as_str().replace('-', "--"))
}

/// What the names of all endpoints of a node begin with. Names of other nodes can begin so too (`a` and `a--b`):
/// read each name back with [`parse_endpoint_name`].
#[must_use]
pub fn endpoint_name_prefix(node: &NodeName) -> String {
    format!("{}-{ORCHESTRATOR}-{ORCHESTRATOR}-", node.as_str().replace('-', "--"))
}

/// Node and endpoint of a name of the `libnetwork` orchestrator.
#[must_use]
pub fn parse_endpoint_name(name: &str) -> Option<(NodeName, EndpointId)> {
    let parts = split_escaped(name);
    let [node, orchestrator, workload, endpoint] = parts.as_slice() else { return None };
    if orchestrator != ORCHESTRATOR || workload != ORCHESTRATOR {
        return None;
    }
    Some((NodeName::new(node).ok()?, EndpointId::new(endpoint).ok()?))
}

/// Splits at single dashes and turns doubled ones back into one. A segment never begins or ends with a dash.
fn split_escaped(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        if c == '-' && chars.peek() != Some(&'-') {
            parts.push(String::new());
            continue;
        }
        if c == '-' {
            chars.next();
        }
        if let Some(part) = parts.last_mut() {
            part.push(c);
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_are_calicos() {
        let node = NodeName::new("docker-1").unwrap();
        let endpoint = EndpointId::new("736ccfa7").unwrap();
        assert_eq!(endpoint_name(&node, &endpoint), "docker--1-libnetwork-libnetwork-736ccfa7");
    }

    #[test]
    fn other_orchestrators_are_not_ours() {
        assert_eq!(parse_endpoint_name("node-k8s-pod-eth0"), None);
        assert_eq!(parse_endpoint_name("node-libnetwork-libnetwork"), None);
    }

    proptest! {
        #[test]
        fn names_read_back(node in "[a-z0-9]([-a-z0-9]{0,12}[a-z0-9])?", endpoint in "[a-z0-9]{1,64}") {
            let node = NodeName::new(&node).unwrap();
            let endpoint = EndpointId::new(&endpoint).unwrap();
            let name = endpoint_name(&node, &endpoint);
            prop_assert!(name.starts_with(&endpoint_name_prefix(&node)));
            prop_assert_eq!(parse_endpoint_name(&name), Some((node, endpoint)));
        }
    }
}
