//! What the graph is told: documents of the datastore by key, their end, and those that cannot be read.

use crate::model::key::RESOURCE_ROOT;
use crate::model::{
    GlobalNetworkPolicySpec, GlobalNetworkSetSpec, HostEndpointSpec, Kind, NetworkPolicySpec, NetworkSetSpec,
    ProfileSpec, TierSpec, WorkloadEndpointSpec,
};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The kinds that matter to policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    /// A container's attachment.
    WorkloadEndpoint,
    /// A host's interface: a member of sets only.
    HostEndpoint,
    /// Prefixes in a namespace.
    NetworkSet,
    /// Prefixes.
    GlobalNetworkSet,
    /// Rules and labels that endpoints share.
    Profile,
    /// An ordered group of policies.
    Tier,
    /// A policy for one namespace.
    NetworkPolicy,
    /// A policy for all.
    GlobalNetworkPolicy,
}

const KINDS: [(ResourceKind, &str, &str, bool); 8] = [
    (ResourceKind::WorkloadEndpoint, WorkloadEndpointSpec::KIND, WorkloadEndpointSpec::PLURAL, true),
    (ResourceKind::HostEndpoint, HostEndpointSpec::KIND, HostEndpointSpec::PLURAL, false),
    (ResourceKind::NetworkSet, NetworkSetSpec::KIND, NetworkSetSpec::PLURAL, true),
    (ResourceKind::GlobalNetworkSet, GlobalNetworkSetSpec::KIND, GlobalNetworkSetSpec::PLURAL, false),
    (ResourceKind::Profile, ProfileSpec::KIND, ProfileSpec::PLURAL, false),
    (ResourceKind::Tier, TierSpec::KIND, TierSpec::PLURAL, false),
    (ResourceKind::NetworkPolicy, NetworkPolicySpec::KIND, NetworkPolicySpec::PLURAL, true),
    (
        ResourceKind::GlobalNetworkPolicy,
        GlobalNetworkPolicySpec::KIND,
        GlobalNetworkPolicySpec::PLURAL,
        false,
    ),
];

impl ResourceKind {
    /// The kind as Calico writes it, e.g. `NetworkPolicy`.
    #[must_use]
    pub fn word(self) -> &'static str {
        KINDS.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, word, ..)| word)
    }
}

/// A resource by kind and key. The key's name is the identity, never the name inside the document (datamodel 1.8).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourceId {
    /// Its kind.
    pub kind: ResourceKind,
    /// Its namespace, for namespaced kinds.
    pub namespace: Option<Arc<str>>,
    /// Its name.
    pub name: Arc<str>,
}

impl ResourceId {
    /// A cluster-scoped resource.
    #[must_use]
    pub fn global(kind: ResourceKind, name: &str) -> Self {
        Self { kind, namespace: None, name: name.into() }
    }

    /// A namespaced resource.
    #[must_use]
    pub fn namespaced(kind: ResourceKind, namespace: &str, name: &str) -> Self {
        Self { kind, namespace: Some(namespace.into()), name: name.into() }
    }

    /// What a key of the datastore names, if it is of a kind that matters to policy.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Self> {
        let (plural, rest) = key.strip_prefix(RESOURCE_ROOT)?.split_once('/')?;
        let (kind, _, _, namespaced) = KINDS.iter().find(|(_, _, word, _)| *word == plural)?;
        let (namespace, name) = if *namespaced { rest.split_once('/')? } else { ("", rest) };
        if name.is_empty() || name.contains('/') || (*namespaced && namespace.is_empty()) {
            return None;
        }
        Some(Self { kind: *kind, namespace: namespaced.then(|| namespace.into()), name: name.into() })
    }
}

impl fmt::Display for ResourceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.namespace {
            Some(namespace) => write!(f, "{} {namespace}/{}", self.kind.word(), self.name),
            None => write!(f, "{} {}", self.kind.word(), self.name),
        }
    }
}

/// Labels as a document has them.
pub type LabelMap = BTreeMap<String, String>;

/// A document that could be read.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// A WorkloadEndpoint and its labels.
    WorkloadEndpoint(LabelMap, Box<WorkloadEndpointSpec>),
    /// A HostEndpoint and its labels.
    HostEndpoint(LabelMap, Box<HostEndpointSpec>),
    /// A NetworkSet's or GlobalNetworkSet's labels and prefixes.
    NetworkSet(LabelMap, Vec<String>),
    /// A Profile.
    Profile(Box<ProfileSpec>),
    /// A Tier.
    Tier(Box<TierSpec>),
    /// A GlobalNetworkPolicy, or a NetworkPolicy in the same form.
    Policy(Box<GlobalNetworkPolicySpec>),
}

/// One thing that the graph is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// The resource is now this.
    Put(ResourceId, Document),
    /// The resource is no more.
    Delete(ResourceId),
    /// The resource is there and cannot be read.
    Invalid {
        /// Which one.
        id: ResourceId,
        /// Why it cannot be read.
        why: String,
        /// Of a policy, what says whom it selects and where it stands, if at least that could be read; its rules
        /// are absent.
        remains: Option<Box<GlobalNetworkPolicySpec>>,
    },
}

impl Update {
    /// What an entry of the datastore means; `None` for a key that policy does not care about. No value means that
    /// the key was deleted.
    #[must_use]
    pub fn from_entry(key: &str, value: Option<&[u8]>) -> Option<Self> {
        let id = ResourceId::from_key(key)?;
        let Some(value) = value else { return Some(Self::Delete(id)) };
        Some(match read(id.kind, value) {
            Ok(document) => Self::Put(id, document),
            Err(error) => {
                let remains = is_policy(id.kind).then(|| remains(value)).flatten().map(Box::new);
                Self::Invalid { id, why: format!("it cannot be read: {error}"), remains }
            }
        })
    }
}

fn is_policy(kind: ResourceKind) -> bool {
    matches!(kind, ResourceKind::NetworkPolicy | ResourceKind::GlobalNetworkPolicy)
}

/// The parts of a resource that policy looks at: nothing else in a document can make it unreadable.
#[derive(Deserialize)]
struct Envelope<S> {
    #[serde(default)]
    metadata: Option<Metadata>,
    spec: S,
}

#[derive(Deserialize)]
struct Metadata {
    #[serde(default)]
    labels: Option<LabelMap>,
}

fn parse<S: DeserializeOwned>(value: &[u8]) -> Result<(LabelMap, S), serde_json::Error> {
    let envelope: Envelope<S> = serde_json::from_slice(value)?;
    let labels = envelope.metadata.and_then(|metadata| metadata.labels).unwrap_or_default();
    Ok((labels, envelope.spec))
}

fn read(kind: ResourceKind, value: &[u8]) -> Result<Document, serde_json::Error> {
    Ok(match kind {
        ResourceKind::WorkloadEndpoint => {
            let (labels, spec) = parse(value)?;
            Document::WorkloadEndpoint(labels, Box::new(spec))
        }
        ResourceKind::HostEndpoint => {
            let (labels, spec) = parse(value)?;
            Document::HostEndpoint(labels, Box::new(spec))
        }
        ResourceKind::NetworkSet => {
            let (labels, spec) = parse::<NetworkSetSpec>(value)?;
            Document::NetworkSet(labels, spec.nets.unwrap_or_default())
        }
        ResourceKind::GlobalNetworkSet => {
            let (labels, spec) = parse::<GlobalNetworkSetSpec>(value)?;
            Document::NetworkSet(labels, spec.nets.unwrap_or_default())
        }
        ResourceKind::Profile => Document::Profile(Box::new(parse(value)?.1)),
        ResourceKind::Tier => Document::Tier(Box::new(parse(value)?.1)),
        ResourceKind::NetworkPolicy => {
            Document::Policy(Box::new(parse::<NetworkPolicySpec>(value)?.1.into()))
        }
        ResourceKind::GlobalNetworkPolicy => Document::Policy(Box::new(parse(value)?.1)),
    })
}

/// What an unreadable policy still says about whom it selects and where it stands. `None` if that much cannot be
/// read either.
fn remains(value: &[u8]) -> Option<GlobalNetworkPolicySpec> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let spec = value.get("spec")?.as_object()?;
    Some(GlobalNetworkPolicySpec {
        selector: text(spec, "selector")?,
        namespace_selector: text(spec, "namespaceSelector")?,
        service_account_selector: text(spec, "serviceAccountSelector")?,
        tier: text(spec, "tier").flatten(),
        // Without a readable order it goes first: nothing may be allowed before it is asked.
        order: match spec.get("order") {
            None | Some(Value::Null) => None,
            Some(order) => Some(serde_json::from_value(order.clone()).unwrap_or_else(|_| i64::MIN.into())),
        },
        types: spec.get("types").and_then(|types| serde_json::from_value(types.clone()).ok()),
        do_not_track: spec.get("doNotTrack").and_then(Value::as_bool),
        pre_dnat: spec.get("preDNAT").and_then(Value::as_bool),
        ..GlobalNetworkPolicySpec::default()
    })
}

/// An optional text field: `None` if it is there and not a text.
fn text(spec: &Map<String, Value>, field: &str) -> Option<Option<String>> {
    match spec.get(field) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.clone())),
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = RESOURCE_ROOT;

    #[test]
    fn keys_name_their_resources() {
        let id = ResourceId::from_key(&format!("{ROOT}networkpolicies/libnetwork/default.np1")).unwrap();
        assert_eq!(id, ResourceId::namespaced(ResourceKind::NetworkPolicy, "libnetwork", "default.np1"));
        assert_eq!(id.to_string(), "NetworkPolicy libnetwork/default.np1");
        let id = ResourceId::from_key(&format!("{ROOT}tiers/default")).unwrap();
        assert_eq!(id.to_string(), "Tier default");
        for other in [
            "/calico/ipam/v2/config".to_owned(),
            format!("{ROOT}stagednetworkpolicies/libnetwork/x"),
            format!("{ROOT}stagedglobalnetworkpolicies/x"),
            format!("{ROOT}ippools/x"),
            format!("{ROOT}networkpolicies/only-a-namespace"),
            format!("{ROOT}networkpolicies//x"),
            format!("{ROOT}tiers/"),
            format!("{ROOT}tiers/a/b"),
            format!("{ROOT}tiers"),
        ] {
            assert_eq!(ResourceId::from_key(&other), None, "{other}");
            assert_eq!(Update::from_entry(&other, None), None, "{other}");
        }
    }

    #[test]
    fn an_unreadable_policy_keeps_what_says_whom_it_selects() {
        let key = format!("{ROOT}globalnetworkpolicies/p");
        let value = br#"{"spec":{"selector":"a == 'b'","order":"first","tier":"t","ingress":"nonsense"}}"#;
        let Some(Update::Invalid { id, why, remains: Some(remains) }) = Update::from_entry(&key, Some(value))
        else {
            panic!("it is read")
        };
        assert_eq!(id.to_string(), "GlobalNetworkPolicy p");
        assert!(why.starts_with("it cannot be read: "), "{why}");
        assert_eq!(remains.selector.as_deref(), Some("a == 'b'"));
        assert_eq!(remains.tier.as_deref(), Some("t"));
        assert_eq!(remains.order, Some(i64::MIN.into()));
    }

    #[test]
    fn a_policy_without_readable_selector_keeps_nothing() {
        let key = format!("{ROOT}globalnetworkpolicies/p");
        for value in ["", "{", "{}", "[]", "null", r#"{"spec":[]}"#, r#"{"spec":{"selector":1}}"#] {
            let update = Update::from_entry(&key, Some(value.as_bytes())).unwrap();
            assert!(matches!(update, Update::Invalid { remains: None, .. }), "{value}");
        }
    }

    #[test]
    fn what_policy_does_not_look_at_cannot_make_a_document_unreadable() {
        let key = format!("{ROOT}tiers/t");
        let update = Update::from_entry(&key, Some(br#"{"metadata":{"uid":7},"spec":{"order":5}}"#)).unwrap();
        assert!(matches!(update, Update::Put(_, Document::Tier(_))));
    }
}
