//! Handing an address that is held from one owner to another, without a moment in which nobody holds it: swarm's leader
//! takes addresses for tasks of other nodes, and the Go plugin took them for nobody by name.

use super::Owner;
use super::affinity::put_block;
use super::engine::Engine;
use super::error::IpamError;
use crate::model::HandleId;
use crate::store::Txn;
use crate::store::retry;
use std::net::IpAddr;

impl Engine {
    /// Hands `ip` over to `owner` and this node, if it is held under `from` (`None`: under no handle) still; false if it
    /// is not. Block and handles change in one transaction.
    pub(super) async fn rehome(
        &self,
        ip: IpAddr,
        from: Option<&HandleId>,
        owner: &Owner,
    ) -> Result<bool, IpamError> {
        retry::on_conflict(|| self.rehome_once(ip, from, owner)).await
    }

    async fn rehome_once(
        &self,
        ip: IpAddr,
        from: Option<&HandleId>,
        owner: &Owner,
    ) -> Result<bool, IpamError> {
        let Some((mut block, held)) = self.holding(ip).await? else { return Ok(false) };
        if held.handle.as_deref() != from.map(HandleId::as_str) {
            return Ok(false);
        }
        block.value.hand_over(ip, &self.attribute(owner, self.now()));
        let (txn, _) = put_block(Txn::new(), &block)?;
        let txn = self.take_from_handles(txn, &[held]).await?;
        let txn = self.add_to_handles(txn, block.value.cidr(), [&owner.handle], false).await?;
        self.commit(txn).await?;
        Ok(true)
    }
}
