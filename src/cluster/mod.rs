//! What a Calico cluster needs before its first endpoint, made only where it is missing: ClusterInformation, tiers, this
//! host's Node, the default pools. calico/node does the same at its start (`node/pkg/lifecycle/startup/startup.go`).
//!
//! ```text
//! host's addresses -> detect -> node_plan -> node: compare-and-swap of the Node resource
//!    Node as it is, other Nodes ----^
//! ```

mod detect;
mod lock;
mod node;
mod node_plan;
mod pools;
mod singletons;

pub use detect::is_uplink_address;
pub use lock::DatastoreLock;
pub use node::{ClusterError, NodeKeeper, Published, machine_id};
pub use pools::ensure_default_pool;
pub use singletons::ensure_initialized;
