//! HostEndpoint: a host's own interface, here only as a member of the sets that rules select.

use super::meta::Kind;
use super::rule::NumberOrText;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a HostEndpoint (`api/pkg/apis/projectcalico/v3/hostendpoint.go`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostEndpointSpec {
    /// The node that it stands on.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The interface, or `*` for all of the host's.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface_name: String,
    /// Its addresses.
    #[serde(default, rename = "expectedIPs", skip_serializing_if = "Option::is_none")]
    pub expected_ips: Option<Vec<String>>,
    /// Profiles, whose labels it inherits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profiles: Option<Vec<String>>,
    /// Ports with names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<EndpointPort>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for HostEndpointSpec {
    const KIND: &'static str = "HostEndpoint";
    const PLURAL: &'static str = "hostendpoints";
}

/// A named port of a HostEndpoint or WorkloadEndpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// The name by which rules mean it; empty for a port that only Kubernetes' CNI plugin uses.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// TCP, UDP or SCTP.
    pub protocol: NumberOrText,
    /// 1 to 65535.
    pub port: u16,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn calicos_own_host_endpoint_round_trips() {
        let text = r#"{"kind":"HostEndpoint","apiVersion":"projectcalico.org/v3","metadata":{"name":"docker-1-eth0","uid":"4861921c-73a1-4c51-95b9-37b3de8bbb22","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"node":"docker-1","interfaceName":"eth0","expectedIPs":["172.17.8.101"]}}"#;
        let endpoint: Resource<HostEndpointSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(endpoint.spec.expected_ips.as_deref(), Some(&["172.17.8.101".to_owned()][..]));
        assert_eq!(serde_json::to_string(&endpoint).unwrap(), text);
    }

    #[test]
    fn named_ports_round_trip() {
        let text = r#"{"name":"http","protocol":"TCP","port":8055}"#;
        let port: EndpointPort = serde_json::from_str(text).unwrap();
        assert_eq!((port.name.as_str(), port.port), ("http", 8055));
        assert_eq!(serde_json::to_string(&port).unwrap(), text);
        assert!(
            serde_json::from_str::<EndpointPort>(r#"{"name":"http","protocol":"TCP","port":70000}"#).is_err()
        );
    }
}
