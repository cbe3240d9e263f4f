//! What can go wrong with addresses, in sentences for somebody who typed a `docker` command.

use super::block::{Allocation, BlockError};
use super::usage::PoolUsage;
use crate::model::{Cidr, IpVersion, NodeName};
use crate::store::StoreError;
use crate::store::retry::Conflicting;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

/// Why no more blocks were claimed or borrowed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shortage {
    /// There is nothing left anywhere.
    Full,
    /// The node owns as many blocks as it may.
    BlockLimit {
        /// Blocks that it owns.
        owned: usize,
        /// Blocks that it may own.
        limit: usize,
    },
    /// `auto_allocate_blocks` is off: no new block may be claimed.
    NoNewBlocks,
    /// `strict_affinity` is on: other nodes' blocks are not borrowed from.
    Strict,
}

/// What a caller of [`Ipam`](super::Ipam) can be told. Cheap to clone: many requests may fail for one reason.
#[derive(Debug, Clone, thiserror::Error)]
pub enum IpamError {
    /// The datastore said no; also after a hundred lost races.
    #[error(transparent)]
    Store(Arc<StoreError>),
    /// The block that holds the address cannot be used.
    #[error(transparent)]
    Damaged(#[from] BlockError),
    /// Automatic assignment needs the Node resource, whose labels choose the pools.
    #[error("node {0} is not registered in the datastore yet")]
    NoNode(NodeName),
    /// The cluster has no pool of this IP version, or none that is enabled.
    #[error("this cluster has no enabled {0} pool")]
    NoEnabledPool(IpVersion),
    /// No enabled pool holds the address or range.
    #[error("no enabled pool of this cluster contains {wanted}; pools: {pools}")]
    NoPoolContains {
        /// The address or range.
        wanted: String,
        /// All enabled pools of the version, `none` if there are none.
        pools: String,
    },
    /// Pools were asked for by CIDR, and no enabled one has it.
    #[error("no enabled pool of this cluster is {wanted}; pools: {pools}")]
    NoSuchPool {
        /// The CIDR that was asked for.
        wanted: Cidr,
        /// All enabled pools of the version.
        pools: String,
    },
    /// Selectors or assignment modes close every pool to this node.
    #[error("no {version} pool serves node {node} by itself: {pools}")]
    NoPoolForNode {
        /// IP version.
        version: IpVersion,
        /// The node.
        node: NodeName,
        /// Each pool with the reason.
        pools: String,
    },
    /// The pools are for something else.
    #[error("pool {pools} may not be used by {users} (allowedUses)")]
    NotForUse {
        /// The pools.
        pools: String,
        /// `workloads` or `tunnels`.
        users: &'static str,
    },
    /// The pool's block size is not one that Calico knows.
    #[error("pool {pools} has a block size that cannot be used")]
    BadBlockSize {
        /// The pools.
        pools: String,
    },
    /// The address lies outside the network's range.
    #[error("{ip} is not inside {range}")]
    Outside {
        /// The address.
        ip: IpAddr,
        /// The range.
        range: Cidr,
    },
    /// Somebody holds the address.
    #[error("{ip} is already in use{}", owner_text(.owner))]
    AlreadyAssigned {
        /// The address.
        ip: IpAddr,
        /// Who holds it.
        owner: Box<Allocation>,
    },
    /// The address was released a moment ago.
    #[error("{ip} is already in use: it was released and is kept back for {seconds} s (ipCooldownSeconds)")]
    CoolingDown {
        /// The address.
        ip: IpAddr,
        /// How long released addresses are kept back.
        seconds: u32,
    },
    /// Every address that the request may have is taken.
    #[error("no free address in {}", exhausted_text(.places, .why, .damaged))]
    Exhausted {
        /// The pools that were searched, and how full they are.
        places: Vec<PoolUsage>,
        /// Why it went no further.
        why: Shortage,
        /// Blocks that were passed over because they are damaged.
        damaged: Vec<BlockError>,
    },
    /// `strict_affinity` is on and the address belongs to another node's block, or to nobody's.
    #[error("{ip} is in block {block}, which belongs to {owner}; strict affinity allows own blocks only")]
    StrictAffinity {
        /// The address.
        ip: IpAddr,
        /// Its block.
        block: Cidr,
        /// `node x` or `no node`.
        owner: String,
    },
    /// Another claim on a block of a different size covers the address (its pool was made anew).
    #[error("block {wanted} overlaps block {existing}, which is still in use")]
    Overlap {
        /// The block that would be made.
        wanted: Cidr,
        /// The block that is there.
        existing: Cidr,
    },
    /// A release was refused: the address is not what the caller took it for. Nothing was changed.
    #[error("{ip} is not released: {why}")]
    NotOwner {
        /// The address.
        ip: IpAddr,
        /// What differs.
        why: String,
    },
    /// Too many requests wait already.
    #[error("too many address requests are waiting; try again")]
    Busy,
    /// The request was not finished in time, or the plugin is stopping. It may have been carried out all the same.
    #[error("the address request was not finished: {0}")]
    Unfinished(&'static str),
}

impl From<StoreError> for IpamError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

impl Conflicting for IpamError {
    fn is_conflict(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_conflict())
    }
}

fn owner_text(owner: &Allocation) -> String {
    match (owner.node(), &owner.handle) {
        (Some(node), Some(handle)) => format!(" on node {node} (handle {handle})"),
        (Some(node), None) => format!(" on node {node}"),
        (None, Some(handle)) => format!(" (handle {handle})"),
        (None, None) => String::new(),
    }
}

fn exhausted_text(places: &[PoolUsage], why: &Shortage, damaged: &[BlockError]) -> String {
    let mut text = places.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    // Writing to a String cannot fail.
    let _ = match why {
        Shortage::Full => Ok(()),
        Shortage::BlockLimit { owned, limit } => {
            write!(text, "; this node's limit of blocks is reached: {owned} of {limit}")
        }
        Shortage::NoNewBlocks => {
            write!(text, "; the IPAM configuration forbids new blocks (auto_allocate_blocks)")
        }
        Shortage::Strict => write!(text, "; strict affinity forbids other nodes' blocks"),
    };
    for block in damaged {
        let _ = write!(text, "; {block}");
    }
    text
}
