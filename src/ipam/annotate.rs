//! Saying more about an address that is held already.

use super::affinity::put_block;
use super::block::Standing;
use super::engine::Engine;
use super::error::IpamError;
use crate::store::{Txn, retry};
use std::net::IpAddr;

impl Engine {
    /// Adds an attribute to an address that this node holds; false if it does not hold it.
    pub(super) async fn annotate(&self, ip: IpAddr, name: &str, value: &str) -> Result<bool, IpamError> {
        retry::on_conflict(|| async {
            let pools = self.reader.pools().await?;
            let Some(cidr) = self.find_block(&pools, ip).await? else { return Ok(false) };
            let Some(mut block) = self.reader.block(&cidr).await? else { return Ok(false) };
            match block.value.standing(ip) {
                Some(Standing::Held(held)) if held.node() == Some(self.node.as_str()) => {}
                _ => return Ok(false),
            }
            if block.value.annotate(ip, name, value) {
                self.commit(put_block(Txn::new(), &block)?.0).await?;
            }
            Ok(true)
        })
        .await
    }
}
