//! Automatic assignment (`libcalico-go/lib/ipam/ipam.go`, autoAssign): own blocks first, then a new block, then
//! whatever other nodes have left.

use super::Owner;
use super::affinity::{AffinityReleased, ReleaseRules, put_block};
use super::block::{Block, BlockError};
use super::engine::{Engine, cooldown};
use super::error::{IpamError, Shortage};
use super::pools::{self, Asking, Pool, Wanted};
use super::reserved::{Allowed, intersection};
use super::search::Searcher;
use super::usage;
use crate::model::{BlockAffinity, Cidr, IpamConfig};
use crate::store::Txn;
use crate::store::retry::{self, Conflicting as _};
use crate::store::typed::Versioned;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// How many blocks a node may own where the configuration does not say (Calico's default).
const BLOCK_LIMIT: usize = 20;

/// How often another block is looked for when somebody else was quicker.
const CLAIMS: u32 = retry::ATTEMPTS;

/// How often the blocks are gone through in a row for an address that somebody else always takes first.
const SWEEPS: u32 = retry::ATTEMPTS;

/// What automatic assignment got. Some addresses and an error go together: the rest could not be had.
pub(super) struct Assigned {
    /// One address for each of the first owners.
    pub(super) ips: Vec<IpAddr>,
    /// Why there are not more, if there are fewer than owners.
    pub(super) error: Option<IpamError>,
}

impl Engine {
    /// One address for each owner, all from the same choice of pools. Owners are served in order.
    pub(super) async fn auto_assign(&self, wanted: Wanted, owners: &[Owner]) -> Assigned {
        let mut run = match self.prepare(wanted, owners).await {
            Ok(run) => run,
            Err(error) => return Assigned { ips: Vec::new(), error: Some(error) },
        };
        let error = match run.all().await {
            Ok(None) => None,
            Ok(Some(why)) => Some(run.exhausted(why).await),
            Err(error) => Some(error),
        };
        Assigned { ips: run.ips, error }
    }

    async fn prepare<'a>(&'a self, wanted: Wanted, owners: &'a [Owner]) -> Result<Run<'a>, IpamError> {
        let (config, pools, reserved, labels, claims) = tokio::try_join!(
            self.reader.config(),
            self.reader.pools(),
            self.reader.reserved(),
            self.reader.node_labels(self.node.as_str()),
            self.reader.affinities(&self.node, wanted.version),
        )?;
        let labels = labels.ok_or_else(|| IpamError::NoNode(self.node.clone()))?;
        let chosen = pools::choose(&pools, &wanted, Asking { node: &self.node, labels: &labels })?;
        let (own, others): (Vec<_>, Vec<_>) = claims
            .into_iter()
            .partition(|(cidr, _)| chosen.iter().any(|pool| pool.spec.cidr.contains_cidr(cidr)));
        self.return_unselected(&pools, &labels, &others).await;
        Ok(Run {
            engine: self,
            owners,
            pools: chosen,
            allowed: Allowed { reserved, within: wanted.within },
            wanted,
            owned: own.len(),
            own,
            config,
            ips: Vec::new(),
            damaged: Vec::new(),
        })
    }

    /// Gives empty blocks back whose pool does not select this node any more. It is a courtesy: it may fail.
    async fn return_unselected(
        &self,
        pools: &[Pool],
        labels: &BTreeMap<String, String>,
        claims: &[(Cidr, Versioned<BlockAffinity>)],
    ) {
        let rules = ReleaseRules { require_empty: true, sequence: None };
        for (cidr, _) in claims {
            let pool = pools.iter().find(|pool| pool.spec.cidr.contains_cidr(cidr));
            if pool.is_some_and(|pool| pool.is_enabled() && !pools::selects_node(pool, labels))
                && let Err(error) = self.release_affinity(&self.node, *cidr, rules).await
            {
                log::debug!("block {cidr} is kept: {error}");
            }
        }
    }

    /// Takes one address for each owner, as far as the block has any, in one transaction. `first` spares the first
    /// read. Under `own_only` nothing is taken from a block that is not ours.
    pub(super) async fn assign_from(
        &self,
        first: Versioned<Block>,
        owners: &[Owner],
        rules: &TakeRules<'_>,
    ) -> Result<Vec<IpAddr>, IpamError> {
        let cidr = first.value.cidr();
        let first = Mutex::new(Some(first));
        let unseen = AtomicBool::new(true);
        retry::on_conflict(|| async {
            // Taken before the await: the lock only hands the block into this future once.
            let given = first.lock().ok().and_then(|mut first| first.take());
            let read = match given {
                Some(block) => Some(block),
                None => self.reader.block(&cidr).await?,
            };
            match read {
                Some(block) => self.take(block, owners, rules, unseen.swap(false, Ordering::Relaxed)).await,
                None => Ok(Vec::new()),
            }
        })
        .await
    }

    /// The same from a block as it was read: somebody else's change of it is an error, to be tried again. `unseen`: the
    /// handles are taken to be new.
    async fn take(
        &self,
        mut block: Versioned<Block>,
        owners: &[Owner],
        rules: &TakeRules<'_>,
        unseen: bool,
    ) -> Result<Vec<IpAddr>, IpamError> {
        if rules.own_only && !block.value.is_owned_by(&self.node) {
            return Ok(Vec::new());
        }
        let now = self.now();
        block.value.collect(now, cooldown(rules.config));
        let take = |owner: &Owner| block.value.take_next(&self.attribute(owner, now), rules.allowed);
        let ips: Vec<IpAddr> = owners.iter().map_while(take).collect();
        if ips.is_empty() {
            return Ok(ips);
        }
        let handles = owners.iter().take(ips.len()).map(|owner| &owner.handle);
        let (txn, _) = put_block(Txn::new(), &block)?;
        let txn = self.add_to_handles(txn, block.value.cidr(), handles, unseen).await?;
        self.commit(txn).await?;
        Ok(ips)
    }
}

/// What may be taken from a block.
pub(super) struct TakeRules<'a> {
    pub(super) allowed: &'a Allowed,
    pub(super) config: &'a IpamConfig,
    /// Strict affinity.
    pub(super) own_only: bool,
}

/// One automatic assignment on its way through the blocks.
struct Run<'a> {
    engine: &'a Engine,
    owners: &'a [Owner],
    wanted: Wanted,
    config: IpamConfig,
    allowed: Allowed,
    pools: Vec<Pool>,
    own: Vec<(Cidr, Versioned<BlockAffinity>)>,
    owned: usize,
    ips: Vec<IpAddr>,
    damaged: Vec<BlockError>,
}

impl Run<'_> {
    /// Fills `ips`; says why they are too few, if they are.
    async fn all(&mut self) -> Result<Option<Shortage>, IpamError> {
        self.use_own().await?;
        while !self.is_done() {
            let limit = self.limit();
            if self.owned >= limit {
                return Ok(Some(Shortage::BlockLimit { owned: self.owned, limit }));
            }
            if !self.config.auto_allocate_blocks {
                return Ok(Some(Shortage::NoNewBlocks));
            }
            let Some(block) = self.claim().await? else { break };
            self.owned += 1;
            self.fill(block).await?;
        }
        if !self.is_done() && !self.config.strict_affinity {
            self.borrow().await?;
        }
        Ok(match (self.is_done(), self.config.strict_affinity) {
            (true, _) => None,
            (false, true) => Some(Shortage::Strict),
            (false, false) => Some(Shortage::Full),
        })
    }

    fn is_done(&self) -> bool {
        self.ips.len() >= self.owners.len()
    }

    fn limit(&self) -> usize {
        match self.config.max_blocks_per_host {
            0 => BLOCK_LIMIT,
            limit => usize::try_from(limit).unwrap_or(usize::MAX),
        }
    }

    /// The blocks that this node has claimed before, in order of their keys.
    async fn use_own(&mut self) -> Result<(), IpamError> {
        for (cidr, claim) in std::mem::take(&mut self.own) {
            if self.is_done() {
                break;
            }
            if !self.allowed.allows_some_of(&cidr) {
                continue;
            }
            match self.engine.settle(cidr, Some(&claim)).await {
                Ok(Some(block)) => self.fill(block).await?,
                Ok(None) => self.owned = self.owned.saturating_sub(1),
                Err(IpamError::Damaged(error)) => self.note(error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn fill(&mut self, block: Versioned<Block>) -> Result<(), IpamError> {
        let left = self.owners.get(self.ips.len()..).unwrap_or_default();
        let rules =
            TakeRules { allowed: &self.allowed, config: &self.config, own_only: self.config.strict_affinity };
        match self.engine.assign_from(block, left, &rules).await {
            Ok(ips) => self.ips.extend(ips),
            Err(IpamError::Damaged(error)) => self.note(error),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn note(&mut self, error: BlockError) {
        if !self.damaged.contains(&error) {
            log::warn!("passed over: {error}");
            self.damaged.push(error);
        }
    }

    /// Claims a block that is new to this node; `None` if there is none to be had.
    async fn claim(&mut self) -> Result<Option<Versioned<Block>>, IpamError> {
        for _ in 0..CLAIMS {
            let blocks = self.engine.reader.blocks(self.wanted.version).await?;
            let searcher =
                Searcher { node: &self.engine.node, allowed: &self.allowed, now: self.engine.now() };
            let found = searcher.find(&self.pools, &blocks);
            found.damaged.into_iter().for_each(|error| self.note(error));
            let Some(candidate) = found.candidate else { return self.reclaim(found.idle).await };
            match self.engine.settle(candidate, None).await {
                Ok(Some(block)) => return Ok(Some(block)),
                Ok(None) => {}
                Err(IpamError::Damaged(error)) => self.note(error),
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Takes an empty block from a node that has not used it for a while.
    async fn reclaim(&self, idle: Vec<super::search::Idle>) -> Result<Option<Versioned<Block>>, IpamError> {
        for idle in idle {
            let rules = ReleaseRules { require_empty: true, sequence: Some(idle.sequence) };
            let released = self.engine.release_affinity(&idle.owner, idle.cidr, rules).await?;
            if released == AffinityReleased::Deleted
                && let Some(block) = self.engine.settle(idle.cidr, None).await?
            {
                return Ok(Some(block));
            }
        }
        Ok(None)
    }

    /// Takes addresses from blocks of other nodes and of nobody; they stay theirs. Whoever was beaten to each free address
    /// of a listing lists again: only a listing without any says that all are taken.
    async fn borrow(&mut self) -> Result<(), IpamError> {
        let (mut unseen, mut in_vain) = (true, 0);
        while !self.is_done() && in_vain < SWEEPS {
            let before = self.ips.len();
            if !self.sweep(&mut unseen).await? {
                break;
            }
            if self.ips.len() > before {
                in_vain = 0;
            } else {
                in_vain += 1;
                retry::pause(in_vain).await;
            }
        }
        Ok(())
    }

    /// Goes through the blocks as they are listed now; says whether one of them had a free address.
    async fn sweep(&mut self, unseen: &mut bool) -> Result<bool, IpamError> {
        let blocks = self.engine.reader.blocks(self.wanted.version).await?;
        let mut had_free = false;
        for pool in self.pools.clone() {
            let cidr = pool.spec.cidr;
            let range = self.allowed.within.map_or(Some(cidr), |within| intersection(&cidr, &within));
            let searcher =
                Searcher { node: &self.engine.node, allowed: &self.allowed, now: self.engine.now() };
            let order = searcher.order(&pool);
            let near = range.iter().flat_map(|range| blocks.overlapping(range));
            let mut ranked: Vec<_> =
                near.filter_map(|(cidr, block)| Some((order.rank(&cidr)?, block))).collect();
            ranked.sort_by_key(|(rank, _)| *rank);
            for (_, block) in ranked {
                match block {
                    _ if self.is_done() => return Ok(true),
                    Ok(block) => {
                        had_free |= block.value.has_free(&self.allowed);
                        self.borrow_from(block, unseen).await?;
                    }
                    Err(error) => self.note(error),
                }
            }
        }
        Ok(had_free)
    }

    /// Tries once. Its owner and other borrowers write a block that was just written: the next one is more likely to be
    /// had than this one at a second try.
    async fn borrow_from(&mut self, block: Versioned<Block>, unseen: &mut bool) -> Result<(), IpamError> {
        let left = self.owners.get(self.ips.len()..).unwrap_or_default();
        let rules = TakeRules { allowed: &self.allowed, config: &self.config, own_only: false };
        match self.engine.take(block, left, &rules, *unseen).await {
            Ok(ips) => self.ips.extend(ips),
            // It may have been a handle that exists.
            Err(error) if error.is_conflict() => *unseen = false,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The sentence for those who got nothing.
    async fn exhausted(&self, why: Shortage) -> IpamError {
        match self.engine.reader.blocks(self.wanted.version).await {
            Ok(blocks) => {
                let places =
                    usage::count_pools(&blocks, &self.allowed.reserved, &self.pools, self.wanted.within);
                IpamError::Exhausted { places, why, damaged: self.damaged.clone() }
            }
            Err(error) => error,
        }
    }
}
