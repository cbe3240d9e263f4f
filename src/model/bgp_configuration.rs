//! BGPConfiguration: how the hosts speak BGP, in a cluster (`default`) or on one host (`node.NAME`).

use super::AsNumber;
use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a BGPConfiguration (`api/pkg/apis/projectcalico/v3/bgpconfig.go`). Words and durations are kept as they were
/// written: what cannot be used is told where it would be used, and must not hide the rest of the document.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpConfigurationSpec {
    /// Least severe messages of BIRD that are logged: `Debug`, `Info`, `Warning`, `Error`, `Fatal`, `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_severity_screen: Option<String>,
    /// Whether every host peers with every other; absent means it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_to_node_mesh_enabled: Option<bool>,
    /// AS number of hosts that have none of their own; absent: 64512.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// Communities that prefixes carry when they are announced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<Vec<Community>>,
    /// Which prefixes carry which communities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_advertisements: Option<Vec<PrefixAdvertisement>>,
    /// TCP port; absent: 179.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Password of the mesh, in a Kubernetes secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_password: Option<Value>,
    /// How long neighbours of the mesh keep the routes of a host that restarts, as Go writes durations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_mesh_max_restart_time: Option<String>,
    /// `None` (all addresses) or `NodeIP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bind_mode: Option<String>,
    /// Interfaces whose own routes BIRD does not read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignored_interfaces: Option<Vec<String>>,
    /// Whose routes BIRD programs: `Disabled`, `EnabledNoEncapOnly` (the default), `EnabledIPIPOnly`, `Enabled`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_cluster_routes: Option<String>,
    /// Metric of Calico's ordinary IPv4 routes; absent: 1024.
    #[serde(default, rename = "ipv4NormalRoutePriority", skip_serializing_if = "Option::is_none")]
    pub ipv4_normal_route_priority: Option<u32>,
    /// Metric of Calico's ordinary IPv6 routes; absent: 1024.
    #[serde(default, rename = "ipv6NormalRoutePriority", skip_serializing_if = "Option::is_none")]
    pub ipv6_normal_route_priority: Option<u32>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A community and its name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Community {
    /// Name for [`PrefixAdvertisement::communities`].
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// `aa:nn` or `aa:nn:mm`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What routes inside a prefix carry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefixAdvertisement {
    /// The prefix.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cidr: String,
    /// Names or values of communities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub communities: Vec<String>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl BgpConfigurationSpec {
    /// Whether BIRD programs the routes of pools without encapsulation; those of other pools ours never does. An unknown
    /// word means the default, as for calico/node.
    #[must_use]
    pub fn programs_no_encap(&self) -> bool {
        !matches!(self.program_cluster_routes.as_deref(), Some("Disabled" | "EnabledIPIPOnly"))
    }
}

impl Kind for BgpConfigurationSpec {
    const KIND: &'static str = "BGPConfiguration";
    const PLURAL: &'static str = "bgpconfigurations";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn calicos_own_configuration_round_trips() {
        let text = r#"{"kind":"BGPConfiguration","apiVersion":"projectcalico.org/v3","metadata":{"name":"default","uid":"88309f6b-9a94-41ab-b78a-71a5b4e86152","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"logSeverityScreen":"Info","nodeToNodeMeshEnabled":false,"asNumber":64600,"communities":[{"name":"c","value":"1:2"}],"prefixAdvertisements":[{"cidr":"10.0.0.0/8","communities":["c"]}],"listenPort":178,"ipv4NormalRoutePriority":1024,"serviceClusterIPs":[{"cidr":"10.96.0.0/12"}]}}"#;
        let configuration: Resource<BgpConfigurationSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(configuration.spec.as_number, Some(AsNumber(64_600)));
        assert!(configuration.spec.extra.contains_key("serviceClusterIPs"));
        assert_eq!(serde_json::to_string(&configuration).unwrap(), text);
    }
}
