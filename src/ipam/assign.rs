//! Assignment of one very address (`libcalico-go/lib/ipam/ipam.go`, assignIP). The Node resource, selectors, manual
//! mode, reservations and the block limit do not matter here: who names an address means it.

use super::Owner;
use super::affinity::put_block;
use super::block::{Block, Standing};
use super::engine::{Engine, cooldown};
use super::error::IpamError;
use super::pools;
use crate::model::{Cidr, IpVersion, IpamConfig};
use crate::store::Txn;
use crate::store::retry;
use crate::store::typed::Versioned;
use std::net::IpAddr;

impl Engine {
    /// Assigns `ip`, which must lie in `within` if that is given.
    pub(super) async fn assign(
        &self,
        ip: IpAddr,
        within: Option<Cidr>,
        owner: &Owner,
    ) -> Result<(), IpamError> {
        if let Some(range) = within.filter(|range| !range.contains(ip)) {
            return Err(IpamError::Outside { ip, range });
        }
        let (config, pools) = tokio::try_join!(self.reader.config(), self.reader.pools())?;
        let pool = pools::for_address(&pools, ip)?;
        let cidr = Cidr::masking(ip, pool.spec.block_size());
        retry::on_conflict(|| self.assign_once(ip, cidr, &config, owner)).await
    }

    async fn assign_once(
        &self,
        ip: IpAddr,
        cidr: Cidr,
        config: &IpamConfig,
        owner: &Owner,
    ) -> Result<(), IpamError> {
        let mut block = self.block_for(cidr, IpVersion::of(ip)).await?;
        if config.strict_affinity && !block.value.is_owned_by(&self.node) {
            let owner =
                block.value.owner().map_or_else(|| "no node".to_owned(), |node| format!("node {node}"));
            return Err(IpamError::StrictAffinity { ip, block: cidr, owner });
        }
        let now = self.now();
        block.value.collect(now, cooldown(config));
        match block.value.take(ip, &self.attribute(owner, now)) {
            Ok(()) => {}
            Err(Some(Standing::Held(owner))) => {
                return Err(IpamError::AlreadyAssigned { ip, owner: Box::new(owner) });
            }
            Err(Some(Standing::Cooling)) => {
                return Err(IpamError::CoolingDown { ip, seconds: config.ip_cooldown_seconds });
            }
            Err(Some(Standing::Free) | None) => return Err(IpamError::Outside { ip, range: cidr }),
        }
        let (txn, _) = put_block(Txn::new(), &block)?;
        // The handle is read: an address by name is asked for seldom, and its handle may be shared.
        let txn = self.add_to_handles(txn, cidr, [&owner.handle], false).await?;
        self.commit(txn).await?;
        Ok(())
    }

    /// The block, claimed for this node if it does not exist yet.
    async fn block_for(&self, cidr: Cidr, version: IpVersion) -> Result<Versioned<Block>, IpamError> {
        // Twice at most: a block that is somebody else's by now exists by now.
        for _ in 0..2 {
            if let Some(block) = self.reader.block(&cidr).await? {
                return Ok(block);
            }
            if let Some(existing) = self.reader.blocks(version).await?.misfit(&cidr) {
                return Err(IpamError::Overlap { wanted: cidr, existing });
            }
            if let Some(block) = self.settle(cidr, None).await? {
                return Ok(block);
            }
        }
        Err(IpamError::Unfinished("other nodes keep changing the block"))
    }
}
