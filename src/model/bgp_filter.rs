//! BGPFilter: which routes a peer gets, and which are taken from it.

use super::AsNumber;
use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a BGPFilter (`api/pkg/apis/projectcalico/v3/bgpfilter.go`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BgpFilterSpec {
    /// What is announced over IPv4.
    #[serde(default, rename = "exportV4", skip_serializing_if = "Option::is_none")]
    pub export_v4: Option<Vec<BgpFilterRule>>,
    /// What is taken over IPv4.
    #[serde(default, rename = "importV4", skip_serializing_if = "Option::is_none")]
    pub import_v4: Option<Vec<BgpFilterRule>>,
    /// What is announced over IPv6.
    #[serde(default, rename = "exportV6", skip_serializing_if = "Option::is_none")]
    pub export_v6: Option<Vec<BgpFilterRule>>,
    /// What is taken over IPv6.
    #[serde(default, rename = "importV6", skip_serializing_if = "Option::is_none")]
    pub import_v6: Option<Vec<BgpFilterRule>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for BgpFilterSpec {
    const KIND: &'static str = "BGPFilter";
    const PLURAL: &'static str = "bgpfilters";
}

/// One rule: the first whose conditions all hold decides.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterRule {
    /// A prefix that the route's is compared with.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cidr: String,
    /// Further bounds of the route's prefix length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix_length: Option<PrefixLengths>,
    /// `RemotePeers`: only routes that came from a peer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Only routes over interfaces of this name; `*` stands for anything.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub interface: String,
    /// `Equal`, `NotEqual`, `In` or `NotIn`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub match_operator: String,
    /// `eBGP` or `iBGP`: only for peers of another, or of the same, AS number.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer_type: String,
    /// Only routes that carry a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub communities: Option<CommunityMatch>,
    /// Only routes whose path begins with these AS numbers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub as_path_prefix: Option<Vec<AsNumber>>,
    /// Only routes of this metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
    /// `Accept` or `Reject`.
    #[serde(default)]
    pub action: String,
    /// Changes of a route that is accepted, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operations: Option<Vec<BgpFilterOperation>>,
    /// Fields that this version does not know; a rule with one is not used.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// Bounds of a prefix length.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PrefixLengths {
    /// Least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<u8>,
    /// Most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u8>,
}

/// Communities to look for; Calico knows exactly one a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CommunityMatch {
    /// `aa:nn` or `aa:nn:mm`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// One change of a route; one of the fields is set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BgpFilterOperation {
    /// Adds a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,
    /// Puts AS numbers in front of the path.
    #[serde(default, rename = "prependASPath", skip_serializing_if = "Option::is_none")]
    pub prepend_as_path: Option<PrependAsPath>,
    /// Sets the metric.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,
    /// Fields that this version does not know; a rule with one is not used.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A community to add.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct AddCommunity {
    /// `aa:nn` or `aa:nn:mm`.
    #[serde(default)]
    pub value: String,
}

/// AS numbers to put in front of a path.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PrependAsPath {
    /// As they will stand there.
    #[serde(default)]
    pub prefix: Vec<AsNumber>,
}

/// A metric to set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SetPriority {
    /// The metric, 1 to 2147483646.
    #[serde(default)]
    pub value: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn a_filter_round_trips() {
        let text = r#"{"kind":"BGPFilter","apiVersion":"projectcalico.org/v3","metadata":{"name":"f"},"spec":{"exportV4":[{"cidr":"10.0.0.0/8","prefixLength":{"min":16,"max":24},"source":"RemotePeers","interface":"eth*","matchOperator":"In","peerType":"eBGP","communities":{"values":["1:2"]},"asPathPrefix":[65000],"priority":512,"action":"Accept","operations":[{"addCommunity":{"value":"1:2:3"}},{"prependASPath":{"prefix":[65000,65001]}},{"setPriority":{"value":100}}]}],"importV6":[{"action":"Reject"}]}}"#;
        let filter: Resource<BgpFilterSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&filter).unwrap(), text);
    }
}
