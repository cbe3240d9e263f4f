//! FelixConfiguration: settings of the host side (`api/pkg/apis/projectcalico/v3/felixconfig.go`). `default` holds for
//! all nodes, `node.NAME` for one.

use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a FelixConfiguration, as far as this plugin follows it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FelixConfigurationSpec {
    /// VXLAN network of the traffic between nodes; Calico's default is 4096.
    #[serde(default, rename = "vxlanVNI", skip_serializing_if = "Option::is_none")]
    pub vxlan_vni: Option<u32>,
    /// UDP port of VXLAN; 4789 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_port: Option<u16>,
    /// MTU of the IPv4 VXLAN device in bytes; 0 or absent: the uplink's less 50.
    #[serde(default, rename = "vxlanMTU", skip_serializing_if = "Option::is_none")]
    pub vxlan_mtu: Option<u32>,
    /// MTU of the IPv6 VXLAN device in bytes; 0 or absent: the uplink's less 70.
    #[serde(default, rename = "vxlanMTUV6", skip_serializing_if = "Option::is_none")]
    pub vxlan_mtu_v6: Option<u32>,
    /// Whether there is VXLAN at all; if absent, where a pool asks for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan_enabled: Option<bool>,
    /// Addresses and prefixes of machines that are no nodes and may send VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external_nodes_list: Option<Vec<String>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for FelixConfigurationSpec {
    const KIND: &'static str = "FelixConfiguration";
    const PLURAL: &'static str = "felixconfigurations";
}
