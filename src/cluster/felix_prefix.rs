//! Whether Felix takes this plugin's interfaces for workloads: its `interfacePrefix` says which it does.

use crate::model::{HOST_IFACE_PREFIX, NodeName, key};
use crate::store::{Store, StoreError};
use serde_json::Value;

/// A sentence where Felix of this node would leave our interfaces alone.
///
/// # Errors
/// The datastore cannot be read.
pub async fn foreign_prefix(store: &dyn Store, node: &NodeName) -> Result<Option<String>, StoreError> {
    // The node's own configuration wins.
    for name in [format!("node.{node}"), "default".to_owned()] {
        let entry = store.get(&key::felix_configuration(&name)).await?;
        let spec = entry.and_then(|entry| serde_json::from_slice::<Value>(&entry.value).ok());
        let prefixes =
            spec.as_ref().and_then(|spec| spec.pointer("/spec/interfacePrefix")).and_then(Value::as_str);
        if let Some(prefixes) = prefixes.filter(|prefixes| !prefixes.trim().is_empty()) {
            return Ok((!covers(prefixes)).then(|| {
                format!(
                    "interfacePrefix of FelixConfiguration {name} is {prefixes:?}: Felix takes no interface of this plugin \
                     for a workload's; add {HOST_IFACE_PREFIX} to it"
                )
            }));
        }
    }
    Ok(None)
}

/// Whether every interface of ours begins with one of the prefixes.
fn covers(prefixes: &str) -> bool {
    prefixes
        .split(',')
        .map(str::trim)
        .any(|prefix| !prefix.is_empty() && HOST_IFACE_PREFIX.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{MemoryStore, Txn};
    use serde_json::json;

    #[tokio::test]
    async fn the_nodes_configuration_wins_and_a_prefix_without_ours_is_told() {
        let (store, node) = (MemoryStore::new(), NodeName::new("a").unwrap());
        let set = |name: &'static str, prefixes: &'static str| {
            let value =
                json!({"kind": "FelixConfiguration", "spec": {"interfacePrefix": prefixes}}).to_string();
            store.commit(Txn::new().put(key::felix_configuration(name), value))
        };
        assert_eq!(foreign_prefix(&store, &node).await.unwrap(), None);
        for (prefixes, fine) in
            [("cali", true), ("tap, cali", true), ("c", true), ("tap", false), ("cali0", false)]
        {
            set("default", prefixes).await.unwrap();
            assert_eq!(foreign_prefix(&store, &node).await.unwrap().is_none(), fine, "{prefixes}");
        }
        set("node.a", "tap,cali").await.unwrap();
        assert_eq!(foreign_prefix(&store, &node).await.unwrap(), None);
        set("node.a", "eni").await.unwrap();
        let told = foreign_prefix(&store, &node).await.unwrap().unwrap();
        assert!(told.starts_with("interfacePrefix of FelixConfiguration node.a is \"eni\""), "{told}");
    }
}
