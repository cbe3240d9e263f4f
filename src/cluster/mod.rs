//! What a Calico cluster needs before its first endpoint, made only where it is missing: ClusterInformation, tiers, this
//! host's Node, the default pools. calico/node does the same at its start (`node/pkg/lifecycle/startup/startup.go`).
//!
//! ```text
//! host's addresses -> detect -> node_plan -> node: compare-and-swap of the Node resource
//!    Node as it is, other Nodes ----^
//! ```

mod claim;
mod detect;
mod felix_prefix;
mod lock;
mod node;
mod node_plan;
mod pools;
mod singletons;

pub use claim::{ClaimError, NameClaim};
pub use detect::is_uplink_address;
pub use felix_prefix::foreign_prefix;
pub use lock::{DatastoreLock, sentence as lock_sentence};
pub use node::{ClusterError, NodeKeeper, Published, machine_id};
pub use pools::ensure_default_pool;
pub use singletons::ensure_initialized;
