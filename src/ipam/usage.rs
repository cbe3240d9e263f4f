//! How full pools are.

use super::block::Standing;
use super::engine::Engine;
use super::error::IpamError;
use super::pools::Pool;
use super::reader::Blocks;
use super::reserved::{Reserved, intersection};
use crate::model::{Cidr, IpVersion};
use std::fmt::{self, Display, Formatter};

/// Addresses of a range, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// All addresses; `u128::MAX` stands for the one more that `::/0` has.
    pub size: u128,
    /// Addresses that are held, or cooling down after their release.
    pub used: u128,
    /// Of these, the ones that are cooling down.
    pub cooling: u128,
    /// Addresses that nobody holds and that IPReservations keep from automatic assignment.
    pub reserved: u128,
}

impl Usage {
    /// Addresses that automatic assignment can still hand out, to some node.
    #[must_use]
    pub fn free(&self) -> u128 {
        self.size.saturating_sub(self.used).saturating_sub(self.reserved)
    }
}

impl Display for Usage {
    /// `250 of 256 used, 4 reserved, 2 cooling down`
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} used", self.used, self.size)?;
        if self.reserved > 0 {
            write!(f, ", {} reserved", self.reserved)?;
        }
        if self.cooling > 0 {
            write!(f, ", {} cooling down", self.cooling)?;
        }
        Ok(())
    }
}

/// How full a pool is, or the part of it that a request may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolUsage {
    /// The pool's name.
    pub name: String,
    /// The pool's prefix.
    pub cidr: Cidr,
    /// The part that was counted; the whole pool if it is the same as `cidr`.
    pub range: Cidr,
    /// The count.
    pub usage: Usage,
}

impl Display for PoolUsage {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.range != self.cidr {
            write!(f, "{} of ", self.range)?;
        }
        write!(f, "pool {} ({}): {}", self.name, self.cidr, self.usage)
    }
}

/// Counts the addresses of `range`. Blocks that cannot be used count as empty: nothing is known about them.
pub(super) fn count(blocks: &Blocks, reserved: &Reserved, range: &Cidr) -> Usage {
    let mut usage = Usage { size: range.size(), reserved: reserved.size_within(range), ..Usage::default() };
    for block in blocks.overlapping(range).filter_map(|(_, block)| block.ok()) {
        for (ip, standing) in block.value.taken().filter(|(ip, _)| range.contains(*ip)) {
            usage.used += 1;
            usage.cooling += u128::from(standing == Standing::Cooling);
            if reserved.contains(ip) {
                usage.reserved = usage.reserved.saturating_sub(1);
            }
        }
    }
    usage
}

/// The same for each of several pools, cut to `within`.
pub(super) fn count_pools(
    blocks: &Blocks,
    reserved: &Reserved,
    pools: &[Pool],
    within: Option<Cidr>,
) -> Vec<PoolUsage> {
    let counted = pools.iter().filter_map(|pool| {
        let cidr = pool.spec.cidr;
        let range = within.map_or(Some(cidr), |within| intersection(&cidr, &within))?;
        Some(PoolUsage { name: pool.name().to_owned(), cidr, range, usage: count(blocks, reserved, &range) })
    });
    counted.collect()
}

impl Engine {
    /// Counts the addresses that lie both in `pool` and in `within`.
    pub(super) async fn usage(&self, pool: &Cidr, within: &Cidr) -> Result<Usage, IpamError> {
        let Some(range) = intersection(pool, within) else { return Ok(Usage::default()) };
        let (blocks, reserved) =
            tokio::try_join!(self.reader.blocks(range.version()), self.reader.reserved())?;
        Ok(count(&blocks, &reserved, &range))
    }

    /// Counts the addresses of every pool. A version without pools is not read.
    pub(super) async fn pool_usage(&self) -> Result<Vec<PoolUsage>, IpamError> {
        let (pools, reserved) = tokio::try_join!(self.reader.pools(), self.reader.reserved())?;
        let mut counted = Vec::new();
        for version in [IpVersion::V4, IpVersion::V6] {
            let of_version: Vec<Pool> =
                pools.iter().filter(|pool| pool.spec.cidr.version() == version).cloned().collect();
            if !of_version.is_empty() {
                let (blocks, reserved) = (self.reader.blocks(version).await?, reserved.clone());
                // Thousands of blocks are decoded: calls of Docker wait for no such thing.
                let work = move || count_pools(&blocks, &reserved, &of_version, None);
                let done = tokio::task::spawn_blocking(work).await;
                counted.extend(done.map_err(|_ended| IpamError::Unfinished("the plugin is stopping"))?);
            }
        }
        Ok(counted)
    }
}
