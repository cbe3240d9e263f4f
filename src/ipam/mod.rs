//! Calico block IPAM over the datastore: every address of a container comes from here and goes back here.
//!
//! The data and the algorithms are those of Calico (`libcalico-go/lib/ipam`), so that `calicoctl` and other Calico
//! components see what they expect. One thing is better: a block and the handles of its addresses change in one
//! transaction, where Calico writes the handle first and may leave it counting too much.
//!
//! | file | decides or does |
//! |---|---|
//! | [`block`] | decides: what can be done with one block |
//! | `pools` | decides: which pools serve a request |
//! | `reserved`, `order`, `search` | decide: which addresses, which block next |
//! | `reader` | reads; with etcd a replica answers from memory |
//! | `regions` | what that replica keeps |
//! | `affinity` | claims blocks for this node and gives them up |
//! | `allocator`, `annotate`, `assign`, `handles`, `lookup`, `rehome`, `release`, `usage` | the operations |
//! | `census` | counts addresses for who asks often |
//! | `facts`, `audit` | decide: what is wrong with all of it (`ipam check`) |
//! | `queue` | serves many requests of this process with one write |
//!
//! Nothing here holds a lock that another node could wait for: all that keeps nodes apart are the guards of the
//! store's transactions.

mod affinity;
mod allocator;
mod annotate;
mod assign;
mod audit;
pub mod block;
mod census;
mod engine;
mod error;
mod facts;
mod handles;
mod lookup;
mod order;
mod pools;
mod queue;
mod reader;
mod regions;
mod rehome;
mod release;
mod reserved;
mod search;
mod time;
mod usage;

pub use affinity::AffinityReleased;
pub use audit::{Audit, Counts, Finding, FindingKind, Held, NETWORK_ATTRIBUTE, audit};
pub use block::{Allocation, BlockError, is_block_size};
pub use census::Census;
pub use error::{IpamError, Shortage};
pub use facts::{Facts, User};
pub use pools::Pool;
pub use regions::regions;
pub use reserved::{Allowed, Reserved};
pub use usage::{PoolUsage, Usage};

use crate::model::{Cidr, HandleId, IpVersion, NodeName};
use crate::store::SharedStore;
use engine::Engine;
use pools::Purpose;
use queue::{Job, Queues};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// Tells the time: the system's clock, or a test's.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Who gets an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Its handle; one of its own for each address, so that a release can be proved to be of that very assignment.
    pub handle: HandleId,
    /// What stands beside it. `node` and `timestamp` are put in by [`Ipam`], whatever stands here. `pod`,
    /// `namespace` and tunnel `type`s belong to Kubernetes: its collector would free the address.
    pub attributes: BTreeMap<String, String>,
}

/// A request for any one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoAssign {
    /// IP version.
    pub version: IpVersion,
    /// The pool with exactly this CIDR: its nodeSelector and a manual assignment mode do not matter then, allowedUses
    /// does. `None` is every pool that serves this node.
    pub pool: Option<Cidr>,
    /// Only addresses of this range (`--subnet` inside a pool, `--ip-range`).
    pub within: Option<Cidr>,
    /// Who gets it.
    pub owner: Owner,
}

/// What the caller takes an address for that it releases; anything that differs refuses the release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expect {
    /// Its handle.
    pub handle: Option<HandleId>,
    /// The node that it was assigned to. An allocation that names no node (the Go plugin's) passes.
    pub node: Option<NodeName>,
    /// [`Allocation::sequence`] of the assignment.
    pub sequence: Option<u64>,
}

/// What became of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Released {
    /// The address is free again, or cools down; this is how it was held.
    Freed(Allocation),
    /// Nobody held the address; nothing was changed.
    NotAllocated,
}

/// The IPAM of one node. Cheap to clone; all clones share their queues.
#[derive(Clone)]
pub struct Ipam {
    engine: Arc<Engine>,
    queues: Arc<Queues>,
}

impl std::fmt::Debug for Ipam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ipam").field("node", &self.engine.node).finish_non_exhaustive()
    }
}

impl Ipam {
    /// The IPAM of `node` over a datastore. Nothing is read or written yet.
    #[must_use]
    pub fn new(store: SharedStore, node: NodeName) -> Self {
        Self::with_clock(store, node, Arc::new(SystemTime::now))
    }

    /// The same with a clock of the caller's.
    #[must_use]
    pub fn with_clock(store: SharedStore, node: NodeName, clock: Clock) -> Self {
        let engine = Arc::new(Engine::new(store, node, clock));
        Self { queues: Arc::new(Queues::new(engine.clone())), engine }
    }

    /// The node whose IPAM this is.
    #[must_use]
    pub fn node(&self) -> &NodeName {
        &self.engine.node
    }

    /// All pools of the datastore, enabled or not, in order of their names.
    pub async fn pools(&self) -> Result<Vec<Pool>, IpamError> {
        self.engine.reader.pools().await
    }

    /// The enabled pool that has this CIDR or contains it: what `--subnet` means. Fails with
    /// [`IpamError::NoPoolContains`], which names the pools there are.
    pub async fn find_pool(&self, range: &Cidr) -> Result<Pool, IpamError> {
        pools::for_range(&self.pools().await?, range)
    }

    /// Assigns any one address. Needs this node's Node resource. Requests that are made at the same time are served
    /// with one write. A caller that stops waiting gets nothing: its address is released again.
    pub async fn auto_assign(&self, request: &AutoAssign) -> Result<IpAddr, IpamError> {
        let wanted = pools::Wanted {
            version: request.version,
            pool: request.pool,
            within: request.within,
            purpose: Purpose::Workload,
        };
        let owner = request.owner.clone();
        self.queues.submit(request.version, |reply| Job::Auto(wanted, owner, reply)).await
    }

    /// Assigns any one address of a pool whose `allowedUses` has `Tunnel`, for this node's own end of a tunnel.
    pub async fn auto_assign_tunnel(&self, pool: Cidr, owner: &Owner) -> Result<IpAddr, IpamError> {
        let version = pool.version();
        let wanted = pools::Wanted { version, pool: Some(pool), within: None, purpose: Purpose::Tunnel };
        let owner = owner.clone();
        self.queues.submit(version, |reply| Job::Auto(wanted, owner, reply)).await
    }

    /// Assigns this very address (`--ip`), which must lie in `within` if that is given, and in an enabled pool.
    /// Fails with [`IpamError::AlreadyAssigned`], which tells by whom, or [`IpamError::CoolingDown`].
    pub async fn assign(&self, ip: IpAddr, within: Option<Cidr>, owner: &Owner) -> Result<(), IpamError> {
        let owner = owner.clone();
        self.queues.submit(IpVersion::of(ip), |reply| Job::Assign(ip, within, owner, reply)).await
    }

    /// Releases an address if it is what `expect` says; else [`IpamError::NotOwner`] and no change.
    pub async fn release(&self, ip: IpAddr, expect: &Expect) -> Result<Released, IpamError> {
        let request = (ip, expect.clone());
        self.queues.submit(IpVersion::of(ip), |reply| Job::Release(request, reply)).await
    }

    /// Hands an address that is held over to another owner and this node, if it is held under `from` (`None`: under no
    /// handle); false, and no change, if it is not.
    pub async fn rehome(
        &self,
        ip: IpAddr,
        from: Option<&HandleId>,
        owner: &Owner,
    ) -> Result<bool, IpamError> {
        self.engine.rehome(ip, from, owner).await
    }

    /// Releases every address of a handle, on whichever node, and the handle. Returns the addresses; none if there is
    /// no such handle.
    pub async fn release_by_handle(&self, handle: &HandleId) -> Result<Vec<IpAddr>, IpamError> {
        self.engine.release_by_handle(handle).await
    }

    /// Adds an attribute to an address that this node holds; false if it does not hold it.
    pub async fn annotate(&self, ip: IpAddr, name: &str, value: &str) -> Result<bool, IpamError> {
        self.engine.annotate(ip, name, value).await
    }

    /// Lets a handle count what the blocks say; one that has no address goes. False if it was right already.
    pub async fn repair_handle(&self, handle: &HandleId) -> Result<bool, IpamError> {
        self.engine.repair_handle(handle).await
    }

    /// Who holds an address; `None` if nobody does, also while it cools down.
    pub async fn lookup(&self, ip: IpAddr) -> Result<Option<Allocation>, IpamError> {
        self.engine.lookup(ip).await
    }

    /// Every address of either version that was assigned to this node, in whichever block. Damaged blocks are left
    /// out with a warning.
    pub async fn allocations_of_node(&self) -> Result<Vec<Allocation>, IpamError> {
        self.engine.allocations_of_node().await
    }

    /// Gives up this node's claim on one block: deleted if it is empty; else left without an owner, or with
    /// `require_empty` left as it is.
    pub async fn release_affinity(
        &self,
        block: Cidr,
        require_empty: bool,
    ) -> Result<AffinityReleased, IpamError> {
        let rules = affinity::ReleaseRules { require_empty, sequence: None };
        self.engine.release_affinity(&self.engine.node, block, rules).await
    }

    /// Gives up all of this node's claims, before the node leaves the cluster.
    pub async fn release_node(&self) -> Result<(), IpamError> {
        self.engine.release_node().await
    }

    /// Gives all blocks of a pool back, whichever node's, before the pool is deleted. Set the pool's `disabled` first,
    /// so that nobody claims anew. Returns the blocks that stay because somebody holds addresses of them.
    pub async fn release_pool(&self, pool: &Cidr) -> Result<Vec<Cidr>, IpamError> {
        self.engine.release_pool(pool).await
    }

    /// Counts the addresses that lie both in `pool` and in `within`.
    pub async fn usage(&self, pool: &Cidr, within: &Cidr) -> Result<Usage, IpamError> {
        self.engine.usage(pool, within).await
    }

    /// Counts the addresses of every pool, enabled or not: those of version 4 by name, then those of version 6.
    pub async fn pool_usage(&self) -> Result<Vec<PoolUsage>, IpamError> {
        self.engine.pool_usage().await
    }

    /// Waits for the requests under way and refuses new ones, also on clones: for an orderly stop.
    pub async fn drain(&self) {
        self.queues.drain().await;
    }
}
