//! Who holds what.

use super::block::{Allocation, Standing};
use super::engine::Engine;
use super::error::IpamError;
use crate::model::IpVersion;
use std::net::IpAddr;

impl Engine {
    /// Who holds an address; `None` if nobody does, also while it cools down.
    pub(super) async fn lookup(&self, ip: IpAddr) -> Result<Option<Allocation>, IpamError> {
        let pools = self.reader.pools().await?;
        let Some(cidr) = self.find_block(&pools, ip).await? else { return Ok(None) };
        let block = self.reader.block(&cidr).await?;
        Ok(block.and_then(|block| match block.value.standing(ip)? {
            Standing::Held(allocation) => Some(allocation),
            Standing::Free | Standing::Cooling => None,
        }))
    }

    /// Every address of either version that was assigned to this node.
    pub(super) async fn allocations_of_node(&self) -> Result<Vec<Allocation>, IpamError> {
        let mut found = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            for (_, block) in self.reader.blocks(version).await?.all() {
                match block {
                    Ok(block) => found.extend(
                        block.value.allocations().filter(|held| held.node() == Some(self.node.as_str())),
                    ),
                    Err(error) => log::warn!("left out: {error}"),
                }
            }
        }
        Ok(found)
    }
}
