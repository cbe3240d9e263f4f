//! What `check` tells of this host as a node of the cluster.

use crate::app;
use crate::cluster::{DatastoreLock, NodeKeeper, foreign_prefix, lock_sentence};
use crate::config::Config;
use crate::net::KernelHost;
use crate::store::SharedStore;
use std::sync::Arc;

/// What stands in the first column, and a fact, or what is wrong.
pub(super) type Line = (&'static str, Result<String, String>);

/// Reads Node, lock and Felix's configuration; changes nothing.
pub(super) async fn lines(config: &Config, store: &SharedStore) -> Vec<Line> {
    let Ok(node) = app::node_name(config) else { return Vec::new() };
    let mut lines = Vec::new();
    let lock = DatastoreLock::new(store.clone());
    if lock.read().await.is_ok() && !*lock.ready().borrow() {
        lines.push(("datastore", Err(lock_sentence())));
    }
    match foreign_prefix(&**store, &node).await {
        Ok(wrong) => lines.extend(wrong.map(|sentence| ("Felix", Err(sentence)))),
        Err(error) => lines.push(("Felix", Err(error.to_string()))),
    }
    let host = match KernelHost::open(config.places.sysnet.clone()).await {
        Ok(host) => Arc::new(host),
        // It is told with the kernel.
        Err(_) => return lines,
    };
    let keeper = NodeKeeper::new(store.clone(), host, node, config.node.clone(), String::new());
    match keeper.examine().await {
        Ok(found) => {
            let [v4, v6] = found.addresses.map(|text| text.unwrap_or_else(|| "none".to_owned()));
            lines.push(("addresses", Ok(format!("IPv4 {v4}, IPv6 {v6}"))));
            lines.extend(found.problems.into_iter().map(|problem| ("addresses", Err(problem))));
        }
        Err(error) => lines.push(("addresses", Err(error.to_string()))),
    }
    lines
}
