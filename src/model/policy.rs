//! GlobalNetworkPolicy and NetworkPolicy.

use super::meta::Kind;
use super::rule::Rule;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// Spec of a GlobalNetworkPolicy (`api/pkg/apis/projectcalico/v3/globalnetworkpolicy.go`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GlobalNetworkPolicySpec {
    /// The tier; empty means `default`. Never to be read from the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Place among the policies of its tier; absent is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Number>,
    /// Rules for traffic to the selected endpoints, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the selected endpoints, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Rule>>,
    /// The endpoints that it is for; empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `Ingress`, `Egress` or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// For host endpoints only: apply before connection tracking.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub do_not_track: Option<bool>,
    /// For host endpoints only: apply before destination NAT.
    #[serde(default, rename = "preDNAT", skip_serializing_if = "Option::is_none")]
    pub pre_dnat: Option<bool>,
    /// For host endpoints only: apply to forwarded traffic too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apply_on_forward: Option<bool>,
    /// Limits the policy to endpoints whose service account has these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<String>,
    /// Limits the policy to endpoints whose namespace has these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<String>,
    /// `AssumeNeededOnEveryNode` keeps the policy's sets ready where it selects nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance_hints: Option<Vec<String>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for GlobalNetworkPolicySpec {
    const KIND: &'static str = "GlobalNetworkPolicy";
    const PLURAL: &'static str = "globalnetworkpolicies";
}

/// Spec of a NetworkPolicy, which selects in its own namespace only.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPolicySpec {
    /// The tier; empty means `default`. Never to be read from the name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<String>,
    /// Place among the policies of its tier; absent is last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub order: Option<Number>,
    /// Rules for traffic to the selected endpoints, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Vec<Rule>>,
    /// Rules for traffic from the selected endpoints, in order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Vec<Rule>>,
    /// The endpoints that it is for; empty means all of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `Ingress`, `Egress` or both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub types: Option<Vec<String>>,
    /// Limits the policy to endpoints whose service account has these labels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account_selector: Option<String>,
    /// `AssumeNeededOnEveryNode` keeps the policy's sets ready where it selects nothing yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub performance_hints: Option<Vec<String>>,
    /// Fields that this version does not use; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Kind for NetworkPolicySpec {
    const KIND: &'static str = "NetworkPolicy";
    const PLURAL: &'static str = "networkpolicies";
}

impl From<NetworkPolicySpec> for GlobalNetworkPolicySpec {
    /// The same policy with the fields that only a global one has absent.
    fn from(spec: NetworkPolicySpec) -> Self {
        Self {
            tier: spec.tier,
            order: spec.order,
            ingress: spec.ingress,
            egress: spec.egress,
            selector: spec.selector,
            types: spec.types,
            service_account_selector: spec.service_account_selector,
            performance_hints: spec.performance_hints,
            extra: spec.extra,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Resource;

    #[test]
    fn calicos_own_policies_round_trip() {
        let global = r#"{"kind":"GlobalNetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"allow-web","uid":"581557bc-d3ed-4fd1-b381-ca4a17cdf134","creationTimestamp":"2026-11-21T00:51:43Z","labels":{"projectcalico.org/tier":"default"},"annotations":{"projectcalico.org/metadata":"{\"name\":\"allow-web\"}"}},"spec":{"order":10,"ingress":[{"action":"Allow","protocol":"TCP","destination":{"ports":[80]}}],"selector":"role == 'web'","types":["Ingress"]}}"#;
        let policy: Resource<GlobalNetworkPolicySpec> = serde_json::from_str(global).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), global);
        let namespaced = r#"{"kind":"NetworkPolicy","apiVersion":"projectcalico.org/v3","metadata":{"name":"np1","namespace":"libnetwork","uid":"8a040824-3024-45ec-bd5c-cb5a23263c00","creationTimestamp":"2026-11-21T00:51:43Z","labels":{"projectcalico.org/tier":"default"},"annotations":{"projectcalico.org/metadata":"{\"name\":\"np1\"}"}},"spec":{"egress":[{"action":"Allow"}],"selector":"all()","types":["Egress"]}}"#;
        let policy: Resource<NetworkPolicySpec> = serde_json::from_str(namespaced).unwrap();
        assert_eq!(serde_json::to_string(&policy).unwrap(), namespaced);
    }

    #[test]
    fn every_field_of_a_rule_round_trips_in_calicos_order() {
        let spec = r#"{"tier":"t","order":1.5,"ingress":[{"action":"Deny","ipVersion":4,"protocol":6,"icmp":{"type":8,"code":0},"notProtocol":"UDP","notICMP":{"type":3},"source":{"nets":["10.0.0.0/8"],"selector":"a","namespaceSelector":"b","services":{"name":"s"},"ports":[80,"90:99","http"],"notNets":["10.1.0.0/16"],"notSelector":"c","notPorts":[1],"serviceAccounts":{"names":["n"],"selector":"d"},"later":1},"destination":{},"http":{"methods":["GET"]},"metadata":{"annotations":{"a":"b"}},"later":true}],"selector":"x","types":["Ingress"],"doNotTrack":true,"preDNAT":true,"applyOnForward":true,"serviceAccountSelector":"y","namespaceSelector":"z","performanceHints":["AssumeNeededOnEveryNode"],"later":{}}"#;
        let read: GlobalNetworkPolicySpec = serde_json::from_str(spec).unwrap();
        assert_eq!(serde_json::to_string(&read).unwrap(), spec);
    }
}
