//! A node's claim on a block, from `pending` over `confirmed` to `pendingDeletion`
//! (`libcalico-go/lib/ipam/ipam_block_reader_writer.go`).
//!
//! ```text
//! claim:    affinity pending  ->  block created, affinity confirmed
//! release:  affinity pendingDeletion  ->  block deleted (or without owner), affinity deleted
//! ```
//!
//! Each arrow is one transaction; a crash between them leaves a claim that the next visit finishes ([`step`]). Who owns
//! a block is decided by its creation alone, so two nodes never both do.

use super::block::Block;
use super::engine::{Engine, cooldown};
use super::error::IpamError;
use crate::model::{AffinityState, BlockAffinity, Cidr, NodeName, key};
use crate::store::retry;
use crate::store::typed::{self, Versioned};
use crate::store::{Guard, Revision, Txn};

/// What a visit to a block finds and must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The block is ours, and so is the claim.
    Use,
    /// The block is ours, the claim is not finished: confirm it, and change the block so that whoever is about to
    /// take it away finds that out.
    Confirm,
    /// No block: announce the claim, then create it.
    Announce,
    /// No block, and the claim is announced: create it.
    Create,
    /// Somebody else's block: our claim is stale.
    DropClaim,
    /// Somebody else's block, and no claim of ours.
    Leave,
}

/// Decides from the state of our claim (`None`: no key) and whether the block is ours (`None`: no block).
fn step(claim: Option<AffinityState>, ours: Option<bool>) -> Step {
    match (ours, claim) {
        (Some(true), Some(AffinityState::Confirmed)) => Step::Use,
        (Some(true), _) => Step::Confirm,
        (Some(false), Some(_)) => Step::DropClaim,
        (Some(false), None) => Step::Leave,
        (None, Some(AffinityState::Pending)) => Step::Create,
        (None, _) => Step::Announce,
    }
}

/// Conditions on giving a block up.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ReleaseRules {
    /// Only if nobody holds an address of it.
    pub(super) require_empty: bool,
    /// Only if it is still as it was seen.
    pub(super) sequence: Option<u64>,
}

/// What became of a block whose release was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AffinityReleased {
    /// There is no block any more.
    Deleted,
    /// Somebody holds addresses of it: it stays, without an owner.
    Disowned,
    /// Somebody holds addresses of it, and it was to be given up only empty: nothing was changed.
    NotEmpty,
    /// It belongs to another node, or was changed in between: it was left alone.
    NotOurs,
}

impl Engine {
    /// Makes sure that a block exists and is ours, claiming it if it does not exist, and returns it; `None` if it
    /// belongs to somebody else. `known` is our claim as a listing had it.
    pub(super) async fn settle(
        &self,
        cidr: Cidr,
        known: Option<&Versioned<BlockAffinity>>,
    ) -> Result<Option<Versioned<Block>>, IpamError> {
        if known.is_some_and(|known| known.value.state == AffinityState::Confirmed)
            && let Some(block) = self.reader.block(&cidr).await?
            && block.value.is_owned_by(&self.node)
        {
            return Ok(Some(block));
        }
        retry::on_conflict(|| self.settle_once(cidr)).await
    }

    async fn settle_once(&self, cidr: Cidr) -> Result<Option<Versioned<Block>>, IpamError> {
        let (claim, block) =
            tokio::try_join!(self.reader.affinity(&self.node, &cidr), self.reader.block(&cidr))?;
        let state = claim.as_ref().map(|claim| claim.value.state);
        let ours = block.as_ref().map(|block| block.value.is_owned_by(&self.node));
        match step(state, ours) {
            Step::Use => Ok(block),
            Step::Leave => Ok(None),
            Step::DropClaim => {
                self.drop_claim(cidr, claim, block.as_ref()).await?;
                Ok(None)
            }
            Step::Confirm => match block {
                Some(block) => self.confirm(cidr, claim, block).await.map(Some),
                None => Ok(None),
            },
            Step::Announce => {
                let txn = self.put_claim(Txn::new(), cidr, claim.clone(), AffinityState::Pending)?;
                let revision = self.commit(txn).await?;
                let value = claim.map_or_else(BlockAffinity::default, |claim| claim.value);
                let claim = Versioned { key: key::affinity(&self.node, &cidr), revision, value };
                self.create(cidr, Some(claim)).await.map(Some)
            }
            Step::Create => self.create(cidr, claim).await.map(Some),
        }
    }

    async fn create(
        &self,
        cidr: Cidr,
        claim: Option<Versioned<BlockAffinity>>,
    ) -> Result<Versioned<Block>, IpamError> {
        let block = Block::new(cidr, &self.node, self.now())?;
        let key = key::block(&cidr);
        let txn = Txn::new().create(key.clone(), typed::encode(&key, block.document())?);
        let revision = self.commit(self.put_claim(txn, cidr, claim, AffinityState::Confirmed)?).await?;
        Ok(Versioned { key, revision, value: block })
    }

    async fn confirm(
        &self,
        cidr: Cidr,
        claim: Option<Versioned<BlockAffinity>>,
        block: Versioned<Block>,
    ) -> Result<Versioned<Block>, IpamError> {
        let (txn, changed) = put_block(Txn::new(), &block)?;
        let revision = self.commit(self.put_claim(txn, cidr, claim, AffinityState::Confirmed)?).await?;
        Ok(Versioned { key: block.key, revision, value: changed })
    }

    fn put_claim(
        &self,
        txn: Txn,
        cidr: Cidr,
        claim: Option<Versioned<BlockAffinity>>,
        state: AffinityState,
    ) -> Result<Txn, IpamError> {
        let key = key::affinity(&self.node, &cidr);
        let at = claim.as_ref().map(|claim| claim.revision);
        let value = BlockAffinity { state, ..claim.map_or_else(BlockAffinity::default, |claim| claim.value) };
        Ok(txn.upsert(key.clone(), at, typed::encode(&key, &value)?))
    }

    /// Gives `owner`'s claim on a block up, also another node's.
    pub(super) async fn release_affinity(
        &self,
        owner: &NodeName,
        cidr: Cidr,
        rules: ReleaseRules,
    ) -> Result<AffinityReleased, IpamError> {
        retry::on_conflict(|| self.release_affinity_once(owner, cidr, rules)).await
    }

    async fn release_affinity_once(
        &self,
        owner: &NodeName,
        cidr: Cidr,
        rules: ReleaseRules,
    ) -> Result<AffinityReleased, IpamError> {
        let (claim, block, config) = tokio::try_join!(
            self.reader.affinity(owner, &cidr),
            self.reader.block(&cidr),
            self.reader.config()
        )?;
        let Some(mut block) = block else {
            self.drop_claim(cidr, claim, None).await?;
            return Ok(AffinityReleased::Deleted);
        };
        if !block.value.is_owned_by(owner) {
            self.drop_claim(cidr, claim, Some(&block)).await?;
            return Ok(AffinityReleased::NotOurs);
        }
        if rules.sequence.is_some_and(|sequence| sequence != block.value.sequence()) {
            self.unmark(claim).await?;
            return Ok(AffinityReleased::NotOurs);
        }
        block.value.collect(self.now(), cooldown(&config));
        if rules.require_empty && !block.value.is_empty() {
            self.unmark(claim).await?;
            return Ok(AffinityReleased::NotEmpty);
        }
        let marked = self.mark(claim, AffinityState::PendingDeletion).await?;
        let mut txn = Txn::new();
        if let Some((key, revision)) = marked {
            txn = txn.delete(key, revision);
        }
        if block.value.is_empty() {
            self.commit(txn.delete(block.key, block.revision)).await?;
            return Ok(AffinityReleased::Deleted);
        }
        block.value.disown();
        self.commit(put_block(txn, &block)?.0).await?;
        Ok(AffinityReleased::Disowned)
    }

    /// Deletes a claim because of what its block was seen to be: claim and block were read one after the other, and the
    /// owner may have made the block in between.
    async fn drop_claim(
        &self,
        cidr: Cidr,
        claim: Option<Versioned<BlockAffinity>>,
        block: Option<&Versioned<Block>>,
    ) -> Result<(), IpamError> {
        let Some(claim) = claim else { return Ok(()) };
        let seen = match block {
            Some(block) => Guard::At(block.key.clone(), block.revision),
            None => Guard::Absent(key::block(&cidr)),
        };
        self.commit(Txn::new().delete(claim.key, claim.revision).guard(seen)).await?;
        Ok(())
    }

    /// Puts a claim that an earlier try of ours (or a crashed one) was about to delete back to what holds.
    async fn unmark(&self, claim: Option<Versioned<BlockAffinity>>) -> Result<(), IpamError> {
        let marked = claim.filter(|claim| claim.value.state == AffinityState::PendingDeletion);
        self.mark(marked, AffinityState::Confirmed).await.map(|_| ())
    }

    /// Writes a claim's state if it is another one; returns where the claim stands then.
    async fn mark(
        &self,
        claim: Option<Versioned<BlockAffinity>>,
        state: AffinityState,
    ) -> Result<Option<(String, Revision)>, IpamError> {
        let Some(Versioned { key, revision, value }) = claim else { return Ok(None) };
        if value.state == state {
            return Ok(Some((key, revision)));
        }
        let bytes = typed::encode(&key, &BlockAffinity { state, ..value })?;
        let revision = self.commit(Txn::new().update(key.clone(), revision, bytes)).await?;
        Ok(Some((key, revision)))
    }
}

/// Adds the next version of a block to a transaction; returns it as it stands after that.
pub(super) fn put_block(txn: Txn, block: &Versioned<Block>) -> Result<(Txn, Block), IpamError> {
    let changed = block.value.next_version();
    let bytes = typed::encode(&block.key, changed.document())?;
    Ok((txn.update(block.key.clone(), block.revision, bytes), changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_that_a_crash_leaves_has_a_way_on() {
        use AffinityState::{Confirmed, Pending, PendingDeletion};
        let table = [
            (None, None, Step::Announce),
            (Some(Pending), None, Step::Create),
            (Some(Confirmed), None, Step::Announce),
            (Some(PendingDeletion), None, Step::Announce),
            (None, Some(true), Step::Confirm),
            (Some(Pending), Some(true), Step::Confirm),
            (Some(Confirmed), Some(true), Step::Use),
            (Some(PendingDeletion), Some(true), Step::Confirm),
            (None, Some(false), Step::Leave),
            (Some(Pending), Some(false), Step::DropClaim),
            (Some(Confirmed), Some(false), Step::DropClaim),
            (Some(PendingDeletion), Some(false), Step::DropClaim),
        ];
        for (claim, ours, expected) in table {
            assert_eq!(step(claim, ours), expected, "claim {claim:?}, block ours {ours:?}");
        }
    }
}
