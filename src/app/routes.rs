//! Routes between nodes: on, unless the setting leaves them to somebody else.

use crate::config::Config;
use crate::ipam::Ipam;
use crate::model::NodeName;
use crate::net::SharedUnderlay;
use crate::routes;
use crate::store::SharedStore;
use std::time::Duration;
use tokio::sync::watch;

/// How long the start waits for the first look at the datastore and the kernel; what is not done then is done later.
const FIRST_LOOK: Duration = Duration::from_secs(5);

/// The worker that keeps the routes, after its first look, so that the first container finds the MTU as it will be.
/// `active` says whether this plugin programs the host, or Felix.
pub(super) async fn prepare(
    config: &Config,
    (store, host): (&SharedStore, &SharedUnderlay),
    node: &NodeName,
    active: watch::Receiver<bool>,
) -> Option<routes::Worker> {
    if !config.routes {
        log::info!("routes between nodes are not this plugin's (CALICO_LIBNETWORK_ROUTES=off)");
        return None;
    }
    let ipam = Ipam::new(store.clone(), node.clone());
    let (store, host, node, bird) = (store.clone(), host.clone(), node.clone(), config.bird);
    let parts = routes::Parts { store, host, ipam, node, bird, active };
    let mut worker = routes::Worker::new(parts);
    if tokio::time::timeout(FIRST_LOOK, worker.prepare()).await.is_err() {
        log::warn!("routes between nodes are not there yet; the start goes on without them");
    }
    Some(worker)
}
