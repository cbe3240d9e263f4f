//! One resource as a document, and as it stands in the datastore.

use super::kind::{KindInfo, kind_of_document, words};
use crate::model::ORCHESTRATOR;
use crate::store::{Entry, Revision};
use serde_json::{Map, Value};

/// API group and version of every resource.
const API_VERSION: &str = "projectcalico.org/v3";
/// The annotation in which Calico keeps the name that the user gave a policy (datamodel 1.8).
pub(super) const NAME_ANNOTATION: &str = "projectcalico.org/metadata";

/// A resource that somebody wrote: kind and name are known, the rest is to be checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its kind.
    pub kind: &'static KindInfo,
    /// Its namespace, for namespaced kinds.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// All of it.
    pub value: Value,
}

impl Document {
    /// Takes in one object. A namespaced resource without namespace stands where the containers' endpoints do.
    ///
    /// # Errors
    /// A sentence that names the field.
    pub fn of(value: Value) -> Result<Self, String> {
        let text = |field: &str| value.get(field).and_then(Value::as_str);
        let word = text("kind").ok_or("kind: a text is expected, such as GlobalNetworkPolicy")?;
        let kind = kind_of_document(word)
            .ok_or_else(|| format!("kind: {word:?} cannot be managed here; there are {}", words()))?;
        match text("apiVersion") {
            Some(API_VERSION) => {}
            Some(other) => {
                return Err(format!("{word}: apiVersion: {other:?} is not known; {API_VERSION} is expected"));
            }
            None => return Err(format!("{word}: apiVersion: {API_VERSION} is expected")),
        }
        let metadata = value.get("metadata").and_then(Value::as_object);
        let metadata =
            metadata.ok_or_else(|| format!("{word}: metadata: an object with a name is expected"))?;
        let field = |field: &str| match metadata.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(format!("{word}: metadata.{field}: a text is expected")),
        };
        let name = field("name")?
            .filter(|name| !name.is_empty())
            .ok_or_else(|| format!("{word}: metadata.name: a name is expected"))?;
        let namespace = field("namespace")?.filter(|namespace| !namespace.is_empty());
        let namespace = match (kind.namespaced, namespace) {
            (true, namespace) => Some(namespace.unwrap_or_else(|| ORCHESTRATOR.to_owned())),
            (false, None) => None,
            (false, Some(_)) => return Err(format!("{word} {name}: metadata.namespace: {word} has none")),
        };
        Ok(Self { kind, namespace, name, value })
    }

    /// How sentences call it.
    #[must_use]
    pub fn title(&self) -> String {
        title(self.kind, self.namespace.as_deref(), &self.name)
    }

    /// The key of a resource of this kind, here, with a name.
    pub(super) fn key(&self, name: &str) -> String {
        key(self.kind, self.namespace.as_deref(), name)
    }

    /// `spec`, or nothing if it is no object.
    #[must_use]
    pub fn spec(&self) -> Option<&Map<String, Value>> {
        self.value.get("spec").and_then(Value::as_object)
    }

    /// Changes its metadata.
    pub(super) fn edit_metadata(&mut self, change: impl FnOnce(&mut Map<String, Value>)) {
        edit(&mut self.value, "metadata", change);
    }

    /// Changes its spec, which is made if it has none.
    pub(super) fn edit_spec(&mut self, change: impl FnOnce(&mut Map<String, Value>)) {
        edit(&mut self.value, "spec", change);
    }
}

/// How sentences call a resource.
pub(super) fn title(kind: &KindInfo, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{} {namespace}/{name}", kind.word),
        None => format!("{} {name}", kind.word),
    }
}

/// The key of a resource.
pub(super) fn key(kind: &KindInfo, namespace: Option<&str>, name: &str) -> String {
    match namespace {
        Some(namespace) => format!("{}{namespace}/{name}", kind.root()),
        None => format!("{}{name}", kind.root()),
    }
}

/// Changes an object in an object; whatever else stands there gives way.
pub(super) fn edit(value: &mut Value, field: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let Some(outer) = value.as_object_mut() else { return };
    let mut inner = match outer.remove(field) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    };
    change(&mut inner);
    outer.insert(field.to_owned(), Value::Object(inner));
}

/// A resource as it stands in the datastore.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// Full key.
    pub key: String,
    /// Revision of its last change.
    pub revision: Revision,
    /// Its namespace, for namespaced kinds.
    pub namespace: Option<String>,
    /// The name that users know; that in the key may have a tier in front.
    pub name: String,
    /// As stored.
    pub value: Value,
}

impl Stored {
    /// Reads an entry of a kind; `None` if it is no JSON object, or its key is not one of the kind.
    pub(super) fn read(kind: &KindInfo, entry: &Entry) -> Option<Self> {
        let value: Value = serde_json::from_slice(&entry.value).ok().filter(Value::is_object)?;
        let rest = entry.key.strip_prefix(&kind.root())?;
        let (namespace, name) = match kind.namespaced {
            true => rest.split_once('/').map(|(namespace, name)| (Some(namespace.to_owned()), name))?,
            false => (None, rest),
        };
        let name = if kind.is_policy() { known_name(&value, name) } else { name.to_owned() };
        Some(Self { key: entry.key.clone(), revision: entry.revision, namespace, name, value })
    }

    /// As people see it: with its revision, and with the name that they gave it.
    #[must_use]
    pub fn shown(&self) -> Value {
        let mut value = self.value.clone();
        edit(&mut value, "metadata", |metadata| {
            metadata.insert("name".to_owned(), self.name.clone().into());
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
            if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
                annotations.remove(NAME_ANNOTATION);
                if annotations.is_empty() {
                    metadata.remove("annotations");
                }
            }
        });
        value
    }

    /// A text below the document's root, e.g. `spec.cidr`.
    #[must_use]
    pub fn field(&self, path: &str) -> Option<&Value> {
        path.split('.').try_fold(&self.value, |value, name| value.get(name))
    }
}

/// A policy's name: that of the annotation, else that of the key without the default tier (datamodel 1.8).
fn known_name(value: &Value, in_key: &str) -> String {
    let annotations = value.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let note = annotations.and_then(|notes| notes.get(NAME_ANNOTATION)).and_then(Value::as_str);
    let note: Option<Value> = note.and_then(|note| serde_json::from_str(note).ok());
    let noted = note.as_ref().and_then(|note| note.get("name")).and_then(Value::as_str);
    let tier = value.get("spec").and_then(|spec| spec.get("tier")).and_then(Value::as_str);
    let in_default = matches!(tier, None | Some("" | "default"));
    let stripped = in_key.strip_prefix("default.").filter(|_| in_default);
    noted.filter(|name| !name.is_empty()).or(stripped).unwrap_or(in_key).to_owned()
}
