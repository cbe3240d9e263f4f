//! Everything that IPAM reads, in one place. With etcd a replica that a watch feeds stands in front of the store
//! (`regions` says what it keeps). What is decided on a read is always guarded by its revision, so a reader may
//! lag behind.

use super::block::{Block, BlockError};
use super::error::IpamError;
use super::facts::read_block;
use super::pools::Pool;
use super::reserved::Reserved;
use crate::model::{
    AffinityState, BlockAffinity, Cidr, HandleId, IpReservationSpec, IpVersion, IpamConfig, IpamHandle,
    NodeName, NodeSpec, Resource, key,
};
use crate::store::typed::{self, Versioned};
use crate::store::{Entry, SharedStore};
use std::collections::BTreeMap;

/// A block as read: sound, or damaged.
pub(super) type ReadBlock = Result<Versioned<Block>, BlockError>;

/// Reads.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    store: SharedStore,
}

impl Reader {
    pub(super) fn new(store: SharedStore) -> Self {
        Self { store }
    }

    /// The IPAM configuration; its key is never written by us.
    pub(super) async fn config(&self) -> Result<IpamConfig, IpamError> {
        let found = typed::get::<IpamConfig>(self.store.as_ref(), key::IPAM_CONFIG).await?;
        Ok(found.map_or_else(IpamConfig::default, |found| found.value))
    }

    /// All pools, enabled or not, in order of their names.
    pub(super) async fn pools(&self) -> Result<Vec<Pool>, IpamError> {
        let prefix = key::resources::<crate::model::IpPoolSpec>();
        let found = typed::list::<Pool>(self.store.as_ref(), &prefix).await?;
        Ok(found.into_iter().map(|found| found.value).collect())
    }

    /// All reserved addresses.
    pub(super) async fn reserved(&self) -> Result<Reserved, IpamError> {
        let prefix = key::resources::<IpReservationSpec>();
        let found = typed::list::<Resource<IpReservationSpec>>(self.store.as_ref(), &prefix).await?;
        Ok(Reserved::of(found.iter().map(|found| &found.value.spec)))
    }

    /// The labels of a Node resource; `None` if there is no such node.
    pub(super) async fn node_labels(
        &self,
        name: &str,
    ) -> Result<Option<BTreeMap<String, String>>, IpamError> {
        let found =
            typed::get::<Resource<NodeSpec>>(self.store.as_ref(), &key::resource::<NodeSpec>(name)).await?;
        Ok(found.map(|found| found.value.metadata.labels.unwrap_or_default()))
    }

    /// A node's claims of one version, in order of their keys.
    pub(super) async fn affinities(
        &self,
        node: &NodeName,
        version: IpVersion,
    ) -> Result<Vec<(Cidr, Versioned<BlockAffinity>)>, IpamError> {
        let listing = self.store.list(&key::affinities(node, version)).await?;
        let mut found = Vec::with_capacity(listing.entries.len());
        for entry in &listing.entries {
            match key::parse_affinity(&entry.key) {
                Some((_, cidr)) => found.push((cidr, affinity(entry))),
                None => log::warn!("skipped: {} is not the key of a block affinity", entry.key),
            }
        }
        Ok(found)
    }

    /// A node's claim on one block.
    pub(super) async fn affinity(
        &self,
        node: &NodeName,
        block: &Cidr,
    ) -> Result<Option<Versioned<BlockAffinity>>, IpamError> {
        let found = self.store.get(&key::affinity(node, block)).await?;
        Ok(found.as_ref().map(affinity))
    }

    /// One block.
    pub(super) async fn block(&self, cidr: &Cidr) -> Result<Option<Versioned<Block>>, IpamError> {
        let found = self.store.get(&key::block(cidr)).await?;
        Ok(found.as_ref().map(|entry| open(*cidr, entry)).transpose()?)
    }

    /// All blocks of one version, none of them looked into yet.
    pub(super) async fn blocks(&self, version: IpVersion) -> Result<Blocks, IpamError> {
        let listing = self.store.list(&key::blocks(version)).await?;
        let parse = |entry: Entry| Some((key::parse_block(&entry.key)?, entry));
        Ok(Blocks { entries: listing.entries.into_iter().filter_map(parse).collect() })
    }

    /// A handle.
    pub(super) async fn handle(&self, id: &HandleId) -> Result<Option<Versioned<IpamHandle>>, IpamError> {
        Ok(typed::get(self.store.as_ref(), &key::handle(id)).await?)
    }
}

/// A listing of blocks by prefix. Their documents are decoded when they are asked for: a cluster has thousands, and
/// a claim looks into few.
#[derive(Debug)]
pub(super) struct Blocks {
    entries: BTreeMap<Cidr, Entry>,
}

impl Blocks {
    /// One block, if it exists.
    pub(super) fn get(&self, cidr: &Cidr) -> Option<ReadBlock> {
        self.entries.get(cidr).map(|entry| open(*cidr, entry))
    }

    /// All of them, in order.
    pub(super) fn all(&self) -> impl Iterator<Item = (Cidr, ReadBlock)> {
        self.entries.iter().map(|(cidr, entry)| (*cidr, open(*cidr, entry)))
    }

    /// The blocks that have an address in `range`, in order.
    pub(super) fn overlapping(&self, range: &Cidr) -> impl Iterator<Item = (Cidr, ReadBlock)> {
        let ends = Cidr::any(range.version())..=Cidr::host(range.last());
        let near = self.entries.range(ends).filter(move |(cidr, _)| cidr.overlaps(range));
        near.map(|(cidr, entry)| (*cidr, open(*cidr, entry)))
    }

    /// A block of another size that has an address in `range`.
    pub(super) fn misfit(&self, range: &Cidr) -> Option<Cidr> {
        let wider = (0..range.prefix_len()).map(|len| Cidr::masking(range.base(), len));
        let holding = wider.into_iter().find(|cidr| self.entries.contains_key(cidr));
        let inside = || {
            let near = self.entries.range(*range..=Cidr::host(range.last()));
            near.map(|(cidr, _)| *cidr).find(|cidr| cidr != range && range.contains_cidr(cidr))
        };
        holding.or_else(inside)
    }
}

/// A claim that cannot be read is taken for one that was not finished: the next visit writes it anew.
fn affinity(entry: &Entry) -> Versioned<BlockAffinity> {
    let value = BlockAffinity::decode(&entry.value).unwrap_or_else(|error| {
        log::warn!("taken as pending: {} cannot be read: {error}", entry.key);
        BlockAffinity::new(AffinityState::Pending)
    });
    Versioned { key: entry.key.clone(), revision: entry.revision, value }
}

fn open(cidr: Cidr, entry: &Entry) -> ReadBlock {
    let value = read_block(cidr, entry)?;
    Ok(Versioned { key: entry.key.clone(), revision: entry.revision, value })
}
