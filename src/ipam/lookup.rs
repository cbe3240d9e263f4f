//! Who holds what.

use super::block::{Allocation, Block, Standing};
use super::engine::Engine;
use super::error::IpamError;
use crate::model::IpVersion;
use crate::store::typed::Versioned;
use std::net::IpAddr;

impl Engine {
    /// Who holds an address; `None` if nobody does, also while it cools down.
    pub(super) async fn lookup(&self, ip: IpAddr) -> Result<Option<Allocation>, IpamError> {
        Ok(self.holding(ip).await?.map(|(_, held)| held))
    }

    /// The block of an address that somebody holds, and who that is.
    pub(super) async fn holding(
        &self,
        ip: IpAddr,
    ) -> Result<Option<(Versioned<Block>, Allocation)>, IpamError> {
        let pools = self.reader.pools().await?;
        let Some(cidr) = self.find_block(&pools, ip).await? else { return Ok(None) };
        let Some(block) = self.reader.block(&cidr).await? else { return Ok(None) };
        Ok(match block.value.standing(ip) {
            Some(Standing::Held(held)) => Some((block, held)),
            Some(Standing::Free | Standing::Cooling) | None => None,
        })
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
