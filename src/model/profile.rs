//! Profile: the rules and labels that every endpoint of a network shares.

use super::meta::Kind;
use super::rule::Rule;
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
