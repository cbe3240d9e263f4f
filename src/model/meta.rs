//! The envelope of a Calico v3 resource: kind, metadata, spec, status.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::fmt::Debug;

/// The API group and version of every v3 resource.
const API_VERSION: &str = "projectcalico.org/v3";

/// Annotation of this plugin's own: the Docker network that a WorkloadEndpoint is in, or that a pool of a prefix of Docker's
/// own IPAM is of.
pub const NETWORK_ANNOTATION: &str = "org.projectcalico.docker.network";

/// A spec type's place among Calico's resources.
pub trait Kind {
    /// `kind` in the JSON, e.g. `IPPool`.
    const KIND: &'static str;
    /// The word in the key, e.g. `ippools`.
    const PLURAL: &'static str;
    /// Whether Calico's client always writes `"status":{}` (its status is not a pointer in Go).
    const EMPTY_STATUS: bool = false;
}

/// Metadata as stored. `resourceVersion` is never stored: it is the key's revision.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    /// Resource name, a lower-case DNS subdomain.
    pub name: String,
    /// Namespace, for namespaced kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Random UUID, set at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// RFC 3339, whole seconds, `Z`; set at creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_timestamp: Option<String>,
    /// Labels that selectors match.
    #[serde(default, skip_serializing_if = "map_is_empty")]
    pub labels: Option<BTreeMap<String, String>>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "map_is_empty")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[expect(clippy::ref_option, reason = "serde passes the field by reference")]
fn map_is_empty(map: &Option<BTreeMap<String, String>>) -> bool {
    map.as_ref().is_none_or(BTreeMap::is_empty)
}

impl ObjectMeta {
    /// Metadata of a new object, with the uid and time of its creation.
    #[must_use]
    pub fn created(name: &str, uid: String, timestamp: String) -> Self {
        Self { name: name.to_owned(), uid: Some(uid), creation_timestamp: Some(timestamp), ..Self::default() }
    }

    /// The value of one annotation.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.as_ref()?.get(name).map(String::as_str)
    }

    /// Sets one annotation.
    pub fn annotate(&mut self, name: &str, value: impl Into<String>) {
        self.annotations.get_or_insert_default().insert(name.to_owned(), value.into());
    }
}

/// One v3 resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource<S> {
    /// Always the spec's [`Kind::KIND`].
    #[serde(default)]
    pub kind: String,
    /// Always `projectcalico.org/v3`.
    #[serde(default)]
    pub api_version: String,
    /// Name, uid, labels, annotations.
    pub metadata: ObjectMeta,
    /// What the user asked for.
    pub spec: S,
    /// What the system reports; absent for most kinds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Value>,
    /// Fields that this version does not know; they survive a rewrite.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl<S: Kind> Resource<S> {
    /// A resource of the spec's kind.
    #[must_use]
    pub fn new(metadata: ObjectMeta, spec: S) -> Self {
        let status = S::EMPTY_STATUS.then(|| Value::Object(Map::new()));
        Self {
            kind: S::KIND.to_owned(),
            api_version: API_VERSION.to_owned(),
            metadata,
            spec,
            status,
            extra: Map::new(),
        }
    }

    /// The resource's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }
}
