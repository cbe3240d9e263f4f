//! Saying more about an address that is held already.

use super::affinity::put_block;
use super::engine::Engine;
use super::error::IpamError;
use crate::store::{Txn, retry};
use std::net::IpAddr;

impl Engine {
    /// Adds an attribute to an address that this node holds; false if it does not hold it.
    pub(super) async fn annotate(&self, ip: IpAddr, name: &str, value: &str) -> Result<bool, IpamError> {
        retry::on_conflict(|| async {
            let Some((mut block, held)) = self.holding(ip).await? else { return Ok(false) };
            if held.node() != Some(self.node.as_str()) {
                return Ok(false);
            }
            if block.value.annotate(ip, name, value) {
                self.commit(put_block(Txn::new(), &block)?.0).await?;
            }
            Ok(true)
        })
        .await
    }
}
