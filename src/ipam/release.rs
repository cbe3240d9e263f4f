//! Giving addresses and blocks back (`libcalico-go/lib/ipam/ipam.go`, ReleaseIPs, ReleaseByHandle).

use super::affinity::{AffinityReleased, ReleaseRules, put_block};
use super::block::{Allocation, Block, Standing};
use super::engine::{Engine, cooldown};
use super::error::IpamError;
use super::handles::put_handle;
use super::pools::{self, Pool};
use super::{Expect, Released};
use crate::model::{Cidr, HandleId, IpVersion, NodeName};
use crate::store::Txn;
use crate::store::retry;
use crate::store::typed::Versioned;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One address to be released, and what the caller takes it for.
pub(super) type ReleaseRequest = (IpAddr, Expect);

/// The answer to each of several requests, by their place.
type Answers = BTreeMap<usize, Result<Released, IpamError>>;

impl Engine {
    /// Releases several addresses, those of one block in one transaction. Each request has its own answer.
    pub(super) async fn release(&self, requests: &[ReleaseRequest]) -> Vec<Result<Released, IpamError>> {
        let pools = match self.reader.pools().await {
            Ok(pools) => pools,
            Err(error) => return requests.iter().map(|_| Err(error.clone())).collect(),
        };
        let mut by_block: BTreeMap<Cidr, Vec<usize>> = BTreeMap::new();
        let mut answers = Answers::new();
        for (place, (ip, _)) in requests.iter().enumerate() {
            match self.find_block(&pools, *ip).await {
                Ok(Some(cidr)) => by_block.entry(cidr).or_default().push(place),
                Ok(None) => drop(answers.insert(place, Ok(Released::NotAllocated))),
                Err(error) => drop(answers.insert(place, Err(error))),
            }
        }
        for (cidr, places) in by_block {
            let these: Vec<(usize, &ReleaseRequest)> =
                places.iter().filter_map(|place| Some((*place, requests.get(*place)?))).collect();
            match retry::on_conflict(|| self.release_in(cidr, &these)).await {
                Ok((found, idle)) => {
                    answers.extend(found);
                    self.return_idle(&pools, cidr, idle).await;
                }
                Err(error) => answers.extend(places.into_iter().map(|place| (place, Err(error.clone())))),
            }
        }
        answers.into_values().collect()
    }

    /// The block that holds an address: by its pool, or by looking at all blocks where there is no such pool (any
    /// more), or where it was made anew with another block size.
    pub(super) async fn find_block(&self, pools: &[Pool], ip: IpAddr) -> Result<Option<Cidr>, IpamError> {
        if let Some(cidr) = pools::block_of(pools, ip)
            && self.reader.block(&cidr).await?.is_some()
        {
            return Ok(Some(cidr));
        }
        let blocks = self.reader.blocks(IpVersion::of(ip)).await?;
        blocks
            .overlapping(&Cidr::host(ip))
            .next()
            .map(|(cidr, block)| block.map(|_| cidr))
            .transpose()
            .map_err(Into::into)
    }

    /// Releases addresses of one block; also returns the node that owns the block if it is empty then.
    async fn release_in(
        &self,
        cidr: Cidr,
        requests: &[(usize, &ReleaseRequest)],
    ) -> Result<(Answers, Option<NodeName>), IpamError> {
        let (block, config) = tokio::try_join!(self.reader.block(&cidr), self.reader.config())?;
        let Some(mut block) = block else {
            return Ok((
                requests.iter().map(|(place, _)| (*place, Ok(Released::NotAllocated))).collect(),
                None,
            ));
        };
        let mut answers = Answers::new();
        let mut freed: Vec<Allocation> = Vec::new();
        for (place, (ip, expect)) in requests {
            let answer = judge(&block.value, *ip, expect, &freed);
            if let Ok(Released::Freed(allocation)) = &answer {
                freed.push(allocation.clone());
            }
            answers.insert(*place, answer);
        }
        if freed.is_empty() {
            return Ok((answers, None));
        }
        let ips: Vec<IpAddr> = freed.iter().map(|allocation| allocation.ip).collect();
        block.value.release(&ips, self.now(), cooldown(&config));
        self.write_released(&block, &freed).await?;
        let owner = block.value.owner().filter(|_| block.value.is_empty());
        Ok((answers, owner.and_then(|owner| NodeName::new(owner).ok())))
    }

    /// Writes a block from which addresses were released, with their handles. An empty block without an owner goes.
    async fn write_released(&self, block: &Versioned<Block>, freed: &[Allocation]) -> Result<(), IpamError> {
        let txn = put_or_delete_block(Txn::new(), block)?;
        self.commit(self.take_from_handles(txn, freed).await?).await?;
        Ok(())
    }

    /// Gives a block back that has become empty and whose pool does not select its node any more. It may fail: the
    /// node does it at its next assignment.
    async fn return_idle(&self, pools: &[Pool], cidr: Cidr, idle: Option<NodeName>) {
        let pool = pools.iter().find(|pool| pool.spec.cidr.contains_cidr(&cidr));
        let (Some(owner), Some(pool)) = (idle, pool) else { return };
        let returned = async {
            let labels = self.reader.node_labels(owner.as_str()).await?;
            if labels.is_some_and(|labels| !pools::selects_node(pool, &labels)) {
                let rules = ReleaseRules { require_empty: true, sequence: None };
                self.release_affinity(&owner, cidr, rules).await?;
            }
            Ok::<(), IpamError>(())
        };
        if let Err(error) = returned.await {
            log::debug!("block {cidr} is kept: {error}");
        }
    }

    /// Releases every address of a handle, and the handle; returns the addresses. A handle that does not exist has
    /// none.
    pub(super) async fn release_by_handle(&self, id: &HandleId) -> Result<Vec<IpAddr>, IpamError> {
        let mut freed = Vec::new();
        let mut seen = BTreeSet::new();
        while let Some(cidr) = self.next_block_of(id, &seen).await? {
            seen.insert(cidr);
            freed.extend(retry::on_conflict(|| self.release_handle_in(id, cidr)).await?);
        }
        Ok(freed)
    }

    async fn next_block_of(&self, id: &HandleId, seen: &BTreeSet<Cidr>) -> Result<Option<Cidr>, IpamError> {
        let handle = self.reader.handle(id).await?;
        Ok(handle.and_then(|handle| handle.value.block.keys().find(|cidr| !seen.contains(cidr)).copied()))
    }

    /// Releases a handle's addresses in one block. Its count for the block goes whatever it says: after this the
    /// block has none of it.
    async fn release_handle_in(&self, id: &HandleId, cidr: Cidr) -> Result<Vec<IpAddr>, IpamError> {
        let (handle, block, config) =
            tokio::try_join!(self.reader.handle(id), self.reader.block(&cidr), self.reader.config())?;
        let mut ips: Vec<IpAddr> = Vec::new();
        let mut txn = Txn::new();
        if let Some(mut block) = block {
            let mine = block.value.allocations().filter(|found| found.handle.as_deref() == Some(id.as_str()));
            ips.extend(mine.map(|allocation| allocation.ip));
            if !ips.is_empty() {
                block.value.release(&ips, self.now(), cooldown(&config));
                txn = put_or_delete_block(txn, &block)?;
            }
        }
        if let Some(mut handle) = handle {
            handle.value.block.remove(&cidr);
            txn = put_handle(txn, handle)?;
        }
        if !txn.ops.is_empty() {
            self.commit(txn).await?;
        }
        Ok(ips)
    }

    /// Gives all of this node's blocks back, of both versions; those in use stay without an owner.
    pub(super) async fn release_node(&self) -> Result<(), IpamError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            for (cidr, _) in self.reader.affinities(&self.node, version).await? {
                self.release_affinity(&self.node, cidr, ReleaseRules::default()).await?;
            }
        }
        Ok(())
    }

    /// Gives all blocks of a pool back, whoever owns them; returns the ones that are still in use.
    pub(super) async fn release_pool(&self, pool: &Cidr) -> Result<Vec<Cidr>, IpamError> {
        let blocks = self.reader.blocks(pool.version()).await?;
        let mut in_use = Vec::new();
        for (cidr, block) in blocks.overlapping(pool).filter(|(cidr, _)| pool.contains_cidr(cidr)) {
            let block = block?;
            let released = match block.value.owner().and_then(|owner| NodeName::new(owner).ok()) {
                Some(owner) => self.release_affinity(&owner, cidr, ReleaseRules::default()).await?,
                None => self.delete_if_unused(cidr).await?,
            };
            if released != AffinityReleased::Deleted {
                in_use.push(cidr);
            }
        }
        for (cidr, _) in self.reader.affinities(&self.node, pool.version()).await? {
            // What a crash left between announcing a claim and creating the block.
            if pool.contains_cidr(&cidr) && !in_use.contains(&cidr) {
                self.release_affinity(&self.node, cidr, ReleaseRules::default()).await?;
            }
        }
        Ok(in_use)
    }

    /// Deletes a block without owner that nobody has an address of.
    async fn delete_if_unused(&self, cidr: Cidr) -> Result<AffinityReleased, IpamError> {
        retry::on_conflict(|| async {
            match self.reader.block(&cidr).await? {
                None => Ok(AffinityReleased::Deleted),
                Some(block) if block.value.is_empty() && block.value.document().affinity.is_none() => {
                    self.commit(Txn::new().delete(block.key, block.revision)).await?;
                    Ok(AffinityReleased::Deleted)
                }
                Some(_) => Ok(AffinityReleased::NotOurs),
            }
        })
        .await
    }
}

fn put_or_delete_block(txn: Txn, block: &Versioned<Block>) -> Result<Txn, IpamError> {
    if block.value.is_empty() && block.value.document().affinity.is_none() {
        return Ok(txn.delete(block.key.clone(), block.revision));
    }
    Ok(put_block(txn, block)?.0)
}

/// Whether an address may be released. `freed` are those that this transaction releases already.
fn judge(block: &Block, ip: IpAddr, expect: &Expect, freed: &[Allocation]) -> Result<Released, IpamError> {
    let held = match block.standing(ip) {
        Some(Standing::Held(held)) if !freed.iter().any(|other| other.ip == ip) => held,
        _ => return Ok(Released::NotAllocated),
    };
    let refuse = |why: String| Err(IpamError::NotOwner { ip, why });
    if let Some(handle) = expect.handle.as_ref().filter(|id| held.handle.as_deref() != Some(id.as_str())) {
        return match &held.handle {
            Some(other) => refuse(format!("its handle is {other}, not {handle}")),
            None => refuse(format!("it has no handle, not {handle}")),
        };
    }
    // An allocation that names no node is the Go plugin's: whoever releases it is as good as any.
    if let (Some(node), Some(holder)) = (&expect.node, held.node())
        && holder != node.as_str()
    {
        return refuse(format!("it belongs to node {holder}, not {node}"));
    }
    if let Some(sequence) = expect.sequence.filter(|sequence| *sequence != held.sequence) {
        return refuse(format!("it was assigned anew (sequence {}, not {sequence})", held.sequence));
    }
    Ok(Released::Freed(held))
}
