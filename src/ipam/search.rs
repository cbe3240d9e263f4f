//! Which block a node claims next, decided from a listing of all blocks. Pure
//! (`libcalico-go/lib/ipam/ipam_block_reader_writer.go`, findUsableBlock).

use super::block::{Block, BlockError};
use super::order::BlockOrder;
use super::pools::Pool;
use super::reader::Blocks;
use super::reserved::Allowed;
use crate::model::{Cidr, NodeName};
use std::time::{Duration, SystemTime};

/// An empty block of another node is left to it for this long after its claim: it may just be about to use it
/// (Calico's `EmptyBlockMinReclaimAge`).
pub(super) const RECLAIM_AGE: Duration = Duration::from_secs(60);

/// An empty block of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Idle {
    pub(super) cidr: Cidr,
    pub(super) owner: NodeName,
    /// Its sequence number when it was seen empty.
    pub(super) sequence: u64,
}

/// What a search found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The block to claim: one that does not exist, or one of our own that has addresses left.
    pub(super) candidate: Option<Cidr>,
    /// If there is none: blocks that may be taken from nodes that do not use them.
    pub(super) idle: Vec<Idle>,
    /// Damaged blocks on the way.
    pub(super) damaged: Vec<BlockError>,
}

/// Who searches, and when.
#[derive(Debug, Clone, Copy)]
pub(super) struct Searcher<'a> {
    pub(super) node: &'a NodeName,
    pub(super) allowed: &'a Allowed,
    pub(super) now: SystemTime,
}

impl Searcher<'_> {
    /// Walks the blocks of each pool in this node's order.
    pub(super) fn find(&self, pools: &[Pool], blocks: &Blocks) -> Found {
        let mut found = Found::default();
        for pool in pools {
            let mut order = self.order(pool);
            while found.candidate.is_none()
                && let Some(cidr) = order.next()
            {
                if let Some(reserved) = self.allowed.reserved.covering(&cidr) {
                    order.pass(reserved.last());
                } else if self.allowed.allows_some_of(&cidr) {
                    self.look(cidr, blocks, &mut found);
                }
            }
        }
        found
    }

    /// A pool's blocks in this node's order.
    pub(super) fn order(&self, pool: &Pool) -> BlockOrder {
        BlockOrder::new(pool.spec.cidr, pool.spec.block_size(), self.allowed.within, self.node)
    }

    fn look(&self, cidr: Cidr, blocks: &Blocks, found: &mut Found) {
        match blocks.get(&cidr) {
            // A block of another size in its place, left from an earlier pool, would give addresses out twice.
            None if blocks.misfit(&cidr).is_some() => {}
            None => found.candidate = Some(cidr),
            Some(Err(error)) => found.damaged.push(error),
            Some(Ok(block)) if !block.value.has_free(self.allowed) => {}
            Some(Ok(block)) if block.value.is_owned_by(self.node) => found.candidate = Some(cidr),
            Some(Ok(block)) => found.idle.extend(self.idle(&block.value)),
        }
    }

    fn idle(&self, block: &Block) -> Option<Idle> {
        let owner = NodeName::new(block.owner()?).ok()?;
        let unused = block.is_empty() && block.was_claimed_before(self.now, RECLAIM_AGE);
        unused.then(|| Idle { cidr: block.cidr(), owner, sequence: block.sequence() })
    }
}
