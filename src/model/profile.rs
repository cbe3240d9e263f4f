//! Profile: the rules and labels that every endpoint of a network shares.

use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Spec of a Profile.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProfileSpec {
    /// Rules for traffic to the endpoint, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the endpoint, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Rule>>,
    /// Labels that endpoints with this profile inherit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels_to_apply: Option<BTreeMap<String, String>>,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for ProfileSpec {
    const KIND: &'static str = "Profile";
    const PLURAL: &'static str = "profiles";
}

/// One rule; only what this plugin writes has a field, everything else is kept as it came.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// `Allow`, `Deny`, `Log` or `Pass`.
    pub action: String,
    /// Where the traffic comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<EntityRule>,
    /// Where the traffic goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<EntityRule>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One side of a rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EntityRule {
    /// Selector over endpoints and network sets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn calicos_own_profile_round_trips() {
        let text = r#"{"kind":"Profile","apiVersion":"projectcalico.org/v3","metadata":{"name":"front-end","uid":"938bbd15-b8fc-464d-b8f4-aa601443cc5f","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"ingress":[{"action":"Allow","source":{"selector":"has(front-end)"}}],"egress":[{"action":"Allow"}],"labelsToApply":{"front-end":""}}}"#;
        let profile: Resource<ProfileSpec> = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&profile).unwrap(), text);
    }
}
