//! The memory in front of a cluster's datastore.

use crate::driver::handle_prefix;
use crate::ipam;
use crate::model::NodeName;
use crate::store::{ReplicaStore, SharedStore};
use std::sync::Arc;

/// A store that knows what this node reads for each container.
#[must_use]
pub fn replicate(store: SharedStore, node: &NodeName) -> Arc<ReplicaStore> {
    Arc::new(ReplicaStore::start(store, ipam::regions(node, &handle_prefix(node))))
}
