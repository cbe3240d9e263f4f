//! ClusterInformation, tiers, this host's Node: created where they are missing.

use crate::model::{ClusterInformationSpec, NodeName, NodeSpec, ObjectMeta, Resource, TierSpec, key};
use crate::store::{Entry, Store, StoreError, Txn, retry, typed};
use serde::Serialize;
use std::time::SystemTime;

/// Tiers that Calico v3.32 creates (`clientv3.EnsureInitialized`): name, order, default action.
const TIERS: [(&str, u64, &str); 3] =
    [("default", 1_000_000, "Deny"), ("kube-admin", 1_000, "Pass"), ("kube-baseline", 10_000_000, "Pass")];

/// Writes a resource unless one of its name exists.
pub(super) async fn ensure<S>(store: &dyn Store, name: &str, spec: S) -> Result<bool, StoreError>
where
    S: crate::model::Kind + Serialize,
{
    let key = key::resource::<S>(name);
    if store.get(&key).await?.is_some() {
        return Ok(false);
    }
    let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    let metadata = ObjectMeta::created(name, uuid::Uuid::new_v4().to_string(), timestamp);
    let value = typed::encode(&key, &Resource::new(metadata, spec))?;
    match store.commit(Txn::new().create(&key, value)).await {
        Ok(_) => Ok(true),
        Err(StoreError::Conflict { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What stands in `clusterType` beside the words of other orchestrators.
const TAG: &str = "libnetwork";

/// Creates ClusterInformation, or adds what is missing to that of others: `datastoreReady` only where it is unset, our
/// word in `clusterType`, and nothing while the datastore is locked.
async fn ensure_information(store: &dyn Store) -> Result<(), StoreError> {
    let key = key::resource::<ClusterInformationSpec>("default");
    let Some(found) = typed::get::<Resource<ClusterInformationSpec>>(store, &key).await? else {
        let information = ClusterInformationSpec {
            cluster_guid: Some(uuid::Uuid::new_v4().simple().to_string()),
            cluster_type: Some(TAG.to_owned()),
            datastore_ready: Some(true),
            ..ClusterInformationSpec::default()
        };
        ensure(store, "default", information).await?;
        return Ok(());
    };
    let Some(spec) = completed(&found.value.spec) else { return Ok(()) };
    let information = Resource { spec, ..found.value };
    store.commit(Txn::new().update(&key, found.revision, typed::encode(&key, &information)?)).await?;
    Ok(())
}

/// The spec with what was missing; `None` where nothing was. Pure.
fn completed(spec: &ClusterInformationSpec) -> Option<ClusterInformationSpec> {
    if spec.datastore_ready == Some(false) {
        return None;
    }
    let kinds = spec.cluster_type.as_deref().unwrap_or_default();
    let tagged = kinds.split(',').any(|kind| kind.trim() == TAG);
    if tagged && spec.datastore_ready.is_some() {
        return None;
    }
    let kinds = match (tagged, kinds.is_empty()) {
        (true, _) => kinds.to_owned(),
        (false, true) => TAG.to_owned(),
        (false, false) => format!("{kinds},{TAG}"),
    };
    Some(ClusterInformationSpec { cluster_type: Some(kinds), datastore_ready: Some(true), ..spec.clone() })
}

/// Whether ClusterInformation permits writes: it does unless `datastoreReady` is false. One that cannot be read
/// forbids nothing.
pub(super) fn is_ready(entry: &Entry) -> bool {
    match typed::decode::<Resource<ClusterInformationSpec>>(entry) {
        Ok(information) => information.value.spec.datastore_ready != Some(false),
        Err(error) => {
            log::warn!("{error}");
            true
        }
    }
}

/// Makes the cluster's singletons and this host's Node exist.
pub async fn ensure_initialized(store: &dyn Store, node: &NodeName) -> Result<(), StoreError> {
    retry::on_conflict(|| ensure_information(store)).await?;
    for (name, order, action) in TIERS {
        let spec = TierSpec {
            order: Some(order.into()),
            default_action: Some(action.to_owned()),
            ..TierSpec::default()
        };
        ensure(store, name, spec).await?;
    }
    if ensure(store, node.as_str(), NodeSpec::default()).await? {
        log::info!("created Node {node}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;
    use serde_json::{Value, json};

    async fn after(before: Option<Value>) -> Value {
        let store = MemoryStore::new();
        let key = key::resource::<ClusterInformationSpec>("default");
        if let Some(spec) = before {
            let value = json!({"kind": "ClusterInformation", "metadata": {"name": "default", "uid": "u"}, "spec": spec});
            store.commit(Txn::new().put(&key, value.to_string())).await.unwrap();
        }
        ensure_initialized(&store, &NodeName::new("a").unwrap()).await.unwrap();
        let revision = store.get(&key).await.unwrap().unwrap().revision;
        ensure_initialized(&store, &NodeName::new("a").unwrap()).await.unwrap();
        let entry = store.get(&key).await.unwrap().unwrap();
        assert_eq!(entry.revision, revision, "nothing is written twice");
        serde_json::from_slice::<Value>(&entry.value).unwrap()["spec"].clone()
    }

    #[tokio::test]
    async fn the_information_of_others_is_completed_and_never_contradicted() {
        let made = after(None).await;
        assert_eq!((&made["clusterType"], &made["datastoreReady"]), (&json!("libnetwork"), &json!(true)));
        let theirs =
            json!({"clusterGUID": "g", "calicoVersion": "v3.31.0", "clusterType": "k8s,bgp", "variant": "x"});
        assert_eq!(
            after(Some(theirs)).await,
            json!({"clusterGUID": "g", "calicoVersion": "v3.31.0", "clusterType": "k8s,bgp,libnetwork",
                "datastoreReady": true, "variant": "x"})
        );
        let locked = json!({"clusterGUID": "g", "datastoreReady": false});
        assert_eq!(after(Some(locked.clone())).await, locked, "a locked datastore is left alone");
    }
}
