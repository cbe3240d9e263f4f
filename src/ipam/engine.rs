//! What the operations share: where to read, where to write, whose addresses, what time it is.

use super::error::IpamError;
use super::reader::Reader;
use super::time;
use super::{Clock, Owner};
use crate::model::{AllocationAttribute, IpamConfig, NodeName};
use crate::store::{Revision, SharedStore, Txn};
use std::time::{Duration, SystemTime};

/// Carries the operations out, one at a time or many; races are decided by the store alone. `allocator`, `assign`,
/// `release` and `affinity` each add theirs.
pub(super) struct Engine {
    pub(super) reader: Reader,
    pub(super) node: NodeName,
    store: SharedStore,
    clock: Clock,
}

impl Engine {
    pub(super) fn new(store: SharedStore, node: NodeName, clock: Clock) -> Self {
        Self { reader: Reader::new(store.clone()), node, store, clock }
    }

    pub(super) fn now(&self) -> SystemTime {
        (self.clock)()
    }

    pub(super) async fn commit(&self, txn: Txn) -> Result<Revision, IpamError> {
        Ok(self.store.commit(txn).await?)
    }

    /// What stands in the block about an owner: its own attributes, and the two that every allocation carries. `node`
    /// is what routes to borrowed addresses are made from, so the caller cannot set it.
    pub(super) fn attribute(&self, owner: &Owner, now: SystemTime) -> AllocationAttribute {
        let mut secondary = owner.attributes.clone();
        secondary.insert("node".to_owned(), self.node.to_string());
        secondary.insert("timestamp".to_owned(), time::go_string(now));
        AllocationAttribute {
            handle_id: Some(owner.handle.to_string()),
            secondary: Some(secondary),
            ..AllocationAttribute::default()
        }
    }
}

/// How long a released address is kept back.
pub(super) fn cooldown(config: &IpamConfig) -> Duration {
    Duration::from_secs(u64::from(config.ip_cooldown_seconds))
}
