//! BGPPeer: whom hosts peer with besides the mesh, and how.

use super::AsNumber;
use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a BGPPeer (`api/pkg/apis/projectcalico/v3/bgppeer.go`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// The one host that has this peer; without it and `node_selector` all have.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// The hosts that have this peer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub node_selector: String,
    /// Address of the peer, with a port where it is not the usual one.
    #[serde(default, rename = "peerIP", skip_serializing_if = "String::is_empty")]
    pub peer_ip: String,
    /// AS number of the peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_number: Option<AsNumber>,
    /// AS number that the host shows this peer.
    #[serde(default, rename = "localASNumber", skip_serializing_if = "Option::is_none")]
    pub local_as_number: Option<AsNumber>,
    /// The hosts that are the peers, instead of an address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_selector: String,
    /// Older word for `nextHopMode: Keep`, between different AS numbers.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep_original_next_hop: bool,
    /// `Auto`, `Self` or `Keep`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop_mode: Option<String>,
    /// Password, in a Kubernetes secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Value>,
    /// `UseNodeIP` (the default) or `None`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source_address: String,
    /// How long the peer keeps the routes of a host that restarts, as Go writes durations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_restart_time: Option<String>,
    /// Time between two keepalive messages, as Go writes durations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keepalive_time: Option<String>,
    /// How often the own AS number may stand in the path of a received route.
    #[serde(default, rename = "numAllowedLocalASNumbers", skip_serializing_if = "Option::is_none")]
    pub num_allowed_local_as_numbers: Option<i32>,
    /// How many hops away the peer is; packets from farther away are refused (RFC 5082).
    #[serde(default, rename = "ttlSecurity", skip_serializing_if = "Option::is_none")]
    pub ttl_security: Option<u8>,
    /// The router behind which the peer is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reachable_by: String,
    /// Names of BGPFilters, in the order in which they are asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<Vec<String>>,
    /// The workloads of the host that are the peers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub local_workload_selector: String,
    /// `Auto` (the default): selected hosts have the peering in the other direction too; or `Manual`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverse_peering: Option<String>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for BgpPeerSpec {
    const KIND: &'static str = "BGPPeer";
    const PLURAL: &'static str = "bgppeers";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn calicos_own_peer_round_trips() {
        let text = r#"{"kind":"BGPPeer","apiVersion":"projectcalico.org/v3","metadata":{"name":"rr1","uid":"fe7d534a-29be-4195-8679-2e4e20b512da","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"node":"docker-1","peerIP":"172.17.8.1","asNumber":64512}}"#;
        let peer: Resource<BgpPeerSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(peer.spec.as_number, Some(AsNumber(64_512)));
        assert_eq!(serde_json::to_string(&peer).unwrap(), text);
    }
}
