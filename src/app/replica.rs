//! The memory in front of a cluster's datastore.

use crate::driver::handle_prefix;
use crate::ipam;
use crate::model::{ClusterInformationSpec, NodeName, Resource, key};
use crate::store::replica::Brake;
use crate::store::{ReplicaStore, SharedStore};
use std::sync::Arc;

/// A store that knows what this node reads for each container, and writes nothing while the cluster's data is locked.
#[must_use]
pub fn replicate(store: SharedStore, node: &NodeName) -> Arc<ReplicaStore> {
    let regions = ipam::regions(node, &handle_prefix(node));
    let brake = Brake { key: key::resource::<ClusterInformationSpec>("default"), reads: lock_of };
    Arc::new(ReplicaStore::start(store, regions).with_brake(brake))
}

/// Why nothing may be written, if a migration has locked the data (`datastoreReady: false`).
fn lock_of(document: &[u8]) -> Option<String> {
    let information = serde_json::from_slice::<Resource<ClusterInformationSpec>>(document).ok()?;
    (information.spec.datastore_ready == Some(false)).then(|| {
        "its data is locked: ClusterInformation default says datastoreReady: false, as while it is migrated"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_no_locks() {
        let of =
            |spec: &str| lock_of(format!(r#"{{"metadata":{{"name":"default"}},"spec":{spec}}}"#).as_bytes());
        assert!(of(r#"{"datastoreReady":false}"#).unwrap().contains("datastoreReady: false"));
        assert_eq!(of(r#"{"datastoreReady":true}"#), None);
        assert_eq!(of("{}"), None);
        assert_eq!(lock_of(b"{"), None);
    }
}
