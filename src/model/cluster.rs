//! What stands once in a cluster: ClusterInformation and the tiers.

use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of ClusterInformation `default`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterInformationSpec {
    /// 32 hex digits.
    #[serde(default, rename = "clusterGUID", skip_serializing_if = "Option::is_none")]
    pub cluster_guid: Option<String>,
    /// Comma list of what runs the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster_type: Option<String>,
    /// False while the data is being migrated; absent is not false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_ready: Option<bool>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for ClusterInformationSpec {
    const KIND: &'static str = "ClusterInformation";
    const PLURAL: &'static str = "clusterinformations";
}

/// Spec of a Tier.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TierSpec {
    /// Position among the tiers; absent is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<serde_json::Number>,
    /// `Deny` or `Pass`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_action: Option<String>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for TierSpec {
    const KIND: &'static str = "Tier";
    const PLURAL: &'static str = "tiers";
    const EMPTY_STATUS: bool = true;
}
