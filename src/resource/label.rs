//! One label of a resource: set, changed, or taken away.

use super::document::{edit, title};
use super::kind::KindInfo;
use super::shape::{is_label_name, is_label_value};
use super::write::{Done, WriteError, find};
use crate::store::retry::{self, Conflicting};
use crate::store::{Store, Txn};
use serde_json::{Map, Value};

/// What is to become of a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelChange<'a> {
    /// It gets this value; one that it has already is changed only if that is said.
    Set {
        /// The value.
        value: &'a str,
        /// Whether another value gives way.
        overwrite: bool,
    },
    /// It goes.
    Remove,
}

/// The resource whose label it is.
#[derive(Debug, Clone, Copy)]
pub struct Labelled<'a> {
    /// Its kind.
    pub kind: &'static KindInfo,
    /// Its namespace, for namespaced kinds.
    pub namespace: Option<&'a str>,
    /// Its name.
    pub name: &'a str,
}

impl Conflicting for WriteError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_conflict())
    }
}

/// Changes one label and nothing else; fields that this version does not know stay.
///
/// # Errors
/// The resource or the label does not exist, the label has another value, or the datastore fails.
pub async fn label(
    store: &dyn Store,
    of: Labelled<'_>,
    name: &str,
    change: LabelChange<'_>,
) -> Result<Done, WriteError> {
    let title = title(of.kind, of.namespace, of.name);
    if !of.kind.writable {
        return Err(WriteError::ReadOnly(title));
    }
    let wrong = |why: String| WriteError::Wrong { title: title.clone(), problems: vec![why] };
    if !is_label_name(name) {
        return Err(wrong(format!("{name:?} is no name of a label")));
    }
    if let LabelChange::Set { value, .. } = change
        && !is_label_value(value)
    {
        return Err(wrong(format!("{value:?} is no value of a label")));
    }
    retry::on_conflict(|| async {
        let found = find(store, of.kind, of.namespace, of.name).await?;
        let Some(mut found) = found else { return Err(WriteError::Missing(title.clone())) };
        let labels = found.field("metadata.labels").and_then(|labels| labels.as_object()).cloned();
        let labels = changed(labels.unwrap_or_default(), name, change).map_err(wrong)?;
        let Some(labels) = labels else { return Ok(Done::Unchanged) };
        edit(&mut found.value, "metadata", |metadata| {
            metadata.remove("labels");
            if !labels.is_empty() {
                metadata.insert("labels".to_owned(), Value::Object(labels));
            }
        });
        let value = serde_json::to_vec(&found.value).map_err(|error| crate::store::StoreError::Corrupt {
            key: found.key.clone(),
            why: error.to_string(),
        })?;
        store.commit(Txn::new().update(&found.key, found.revision, value)).await?;
        Ok(Done::Replaced)
    })
    .await
}

/// The labels as they are to be; nothing if they are so already.
fn changed(
    mut labels: Map<String, Value>,
    name: &str,
    change: LabelChange<'_>,
) -> Result<Option<Map<String, Value>>, String> {
    match (change, labels.get(name).and_then(Value::as_str)) {
        (LabelChange::Remove, None) => Err(format!("there is no label {name}")),
        (LabelChange::Remove, Some(_)) => {
            labels.remove(name);
            Ok(Some(labels))
        }
        (LabelChange::Set { value, .. }, Some(former)) if former == value => Ok(None),
        (LabelChange::Set { overwrite: false, .. }, Some(former)) => {
            Err(format!("label {name} is {former:?} already; --overwrite changes it"))
        }
        (LabelChange::Set { value, .. }, _) => {
            labels.insert(name.to_owned(), value.into());
            Ok(Some(labels))
        }
    }
}
