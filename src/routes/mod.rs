//! Routes between nodes: blocks of other nodes, borrowed addresses, VXLAN devices and what is behind them, blackholes
//! of this node's own blocks, and this node's tunnel addresses. What Felix and calico/node do on a Calico host.
//!
//! ```text
//! datastore -> feed -> View -> Situation -> desired --+
//!                        ^                            v
//!                        |            known  ->  delta -> net::Host -> kernel
//!                 tunnel (IPAM, Node)   ^                     |
//!                                       +---- read back <- notification, failure, timer
//! ```
//!
//! `view`, `parse`, `host`, `resolve`, `delta` and `problems` decide; `feed`, `tunnel`, `program` and `worker` do; `examine` looks. Nothing is taken away before
//! everything was listed once, nor when the task ends.

mod delta;
mod examine;
mod feed;
mod host;
mod parse;
mod problems;
mod program;
mod resolve;
mod tunnel;
mod view;
mod worker;

#[cfg(test)]
mod tests;

pub use examine::{Examination, ExamineError, examine};
pub use program::Network;
pub use tunnel::FREE_VNI;
pub use worker::{Parts, Worker};

use crate::net::{NetError, RouteChanges, Underlay};

/// Takes the routes between nodes and the VXLAN devices of this module away, for an uninstall.
///
/// # Errors
/// What could not be removed; the rest is gone.
pub async fn remove_all(host: &dyn Underlay) -> Result<(), NetError> {
    let links = host.links().await?;
    let delete = host::own_routes(host.host_routes().await?, &links);
    let mut errors: Vec<NetError> = Vec::new();
    errors.extend(host.change_routes(&RouteChanges { delete, ..RouteChanges::default() }).await.err());
    for version in host::VERSIONS {
        errors.extend(host.remove_vxlan(resolve::device_name(version)).await.err());
    }
    NetError::of_all(errors).map_or(Ok(()), Err)
}
