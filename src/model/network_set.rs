//! GlobalNetworkSet and NetworkSet: prefixes under labels, for rules to select.

use super::meta::Kind;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Spec of a GlobalNetworkSet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalNetworkSetSpec {
    /// The prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for GlobalNetworkSetSpec {
    const KIND: &'static str = "GlobalNetworkSet";
    const PLURAL: &'static str = "globalnetworksets";
}

/// Spec of a NetworkSet.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkSetSpec {
    /// The prefixes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nets: Option<Vec<String>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for NetworkSetSpec {
    const KIND: &'static str = "NetworkSet";
    const PLURAL: &'static str = "networksets";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn calicos_own_network_sets_round_trip() {
        let global = r#"{"kind":"GlobalNetworkSet","apiVersion":"projectcalico.org/v3","metadata":{"name":"ext","uid":"5fb9f652-fe63-457e-a5ef-821847708012","creationTimestamp":"2026-11-21T00:51:43Z","labels":{"ext":"true"}},"spec":{"nets":["198.51.100.0/28"]}}"#;
        let set: Resource<GlobalNetworkSetSpec> = serde_json::from_str(global).unwrap();
        assert_eq!(set.spec.nets.as_deref(), Some(&["198.51.100.0/28".to_owned()][..]));
        assert_eq!(serde_json::to_string(&set).unwrap(), global);
        let namespaced = r#"{"kind":"NetworkSet","apiVersion":"projectcalico.org/v3","metadata":{"name":"ext","namespace":"libnetwork","uid":"7b786deb-71ba-4cea-999e-fd445bd0db6e","creationTimestamp":"2026-11-21T00:51:43Z"},"spec":{"nets":["198.51.100.0/28"]}}"#;
        let set: Resource<NetworkSetSpec> = serde_json::from_str(namespaced).unwrap();
        assert_eq!(serde_json::to_string(&set).unwrap(), namespaced);
    }
}
