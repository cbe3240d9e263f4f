//! Handles change in the same transaction as the block: how many addresses an owner has never differs from what the
//! blocks say, whatever crashes.

use super::block::Allocation;
use super::engine::Engine;
use super::error::IpamError;
use crate::model::{Cidr, HandleId, IpVersion, IpamHandle, key};
use crate::store::retry;
use crate::store::typed::{self, Versioned};
use crate::store::{StoreError, Txn};
use std::collections::BTreeMap;

impl Engine {
    /// Adds one address of `block` to each handle, as often as it stands in `handles`. With `unseen` the handles are
    /// taken to be new, which spares a read; if one is not, the transaction is a conflict, to be tried again without.
    pub(super) async fn add_to_handles(
        &self,
        mut txn: Txn,
        block: Cidr,
        handles: impl IntoIterator<Item = &HandleId>,
        unseen: bool,
    ) -> Result<Txn, IpamError> {
        let mut counts: BTreeMap<&HandleId, u64> = BTreeMap::new();
        for id in handles {
            *counts.entry(id).or_default() += 1;
        }
        for (id, count) in counts {
            let found = if unseen { None } else { self.reader.handle(id).await? };
            let (mut handle, at) = match found {
                Some(found) => (found.value, Some(found.revision)),
                None => (IpamHandle::default(), None),
            };
            *handle.block.entry(block).or_default() += count;
            let key = key::handle(id);
            let value = typed::encode(&key, &handle)?;
            txn = txn.upsert(key, at, value);
        }
        Ok(txn)
    }

    /// Takes released addresses from their handles, and deletes the handles that have none left. A handle that is not
    /// there, or cannot be read, does not keep an address from being released.
    pub(super) async fn take_from_handles(
        &self,
        mut txn: Txn,
        released: &[Allocation],
    ) -> Result<Txn, IpamError> {
        let mut counts: BTreeMap<HandleId, BTreeMap<Cidr, u64>> = BTreeMap::new();
        for allocation in released {
            if let Some(id) = allocation.handle.as_deref().and_then(|id| HandleId::new(id).ok()) {
                *counts.entry(id).or_default().entry(allocation.block).or_default() += 1;
            }
        }
        for (id, blocks) in counts {
            let Some(mut found) = self.readable_handle(&id).await? else { continue };
            for (block, count) in blocks {
                if let Some(left) = found.value.block.get_mut(&block) {
                    *left = left.saturating_sub(count);
                }
            }
            found.value.block.retain(|_, left| *left > 0);
            txn = put_handle(txn, found)?;
        }
        Ok(txn)
    }

    /// Lets a handle count what the blocks say; false if it did already. Blocks are read after the handle, and whoever
    /// takes or gives an address back changes the handle with the block, so that its revision guards both.
    pub(super) async fn repair_handle(&self, id: &HandleId) -> Result<bool, IpamError> {
        retry::on_conflict(|| async {
            let Some(mut found) = self.reader.handle(id).await? else { return Ok(false) };
            let mut counted: BTreeMap<Cidr, u64> = BTreeMap::new();
            for version in [IpVersion::V4, IpVersion::V6] {
                for (cidr, block) in self.reader.blocks(version).await?.all() {
                    let mine = |held: &Allocation| held.handle.as_deref() == Some(id.as_str());
                    // A damaged block may hold any address: what nothing is known about is not put right.
                    let count = u64::try_from(block?.value.allocations().filter(mine).count());
                    if let Some(count) = count.ok().filter(|count| *count > 0) {
                        counted.insert(cidr, count);
                    }
                }
            }
            if counted == found.value.block {
                return Ok(false);
            }
            found.value.block = counted;
            self.commit(put_handle(Txn::new(), found)?).await?;
            Ok(true)
        })
        .await
    }

    /// A handle, or `None` if it is not there or cannot be read.
    pub(super) async fn readable_handle(
        &self,
        id: &HandleId,
    ) -> Result<Option<Versioned<IpamHandle>>, IpamError> {
        match self.reader.handle(id).await {
            Err(IpamError::Store(error)) if matches!(*error, StoreError::Corrupt { .. }) => {
                log::warn!("left as it is: {error}");
                Ok(None)
            }
            read => read,
        }
    }
}

/// Writes a changed handle, or deletes it if it has no address left.
pub(super) fn put_handle(txn: Txn, handle: Versioned<IpamHandle>) -> Result<Txn, IpamError> {
    if handle.value.block.is_empty() {
        return Ok(txn.delete(handle.key, handle.revision));
    }
    let value = typed::encode(&handle.key, &handle.value)?;
    Ok(txn.update(handle.key, handle.revision, value))
}
