//! Routes between nodes: on, unless the setting leaves them to somebody else.

use crate::config::Config;
use crate::dataplane::{Dataplane, VxlanNetwork, VxlanNetworks};
use crate::ipam::Ipam;
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
    ipam: &Ipam,
    active: watch::Receiver<bool>,
) -> Option<routes::Worker> {
    if !config.routes {
        log::info!("routes between nodes are not this plugin's (CALICO_LIBNETWORK_ROUTES=off)");
        return None;
    }
    let (store, host, node) = (store.clone(), host.clone(), ipam.node().clone());
    let parts = routes::Parts { store, host, ipam: ipam.clone(), node, bird: config.bird, active };
    let mut worker = routes::Worker::new(parts);
    if tokio::time::timeout(FIRST_LOOK, worker.prepare()).await.is_err() {
        log::warn!("routes between nodes are not there yet; the start goes on without them");
    }
    Some(worker)
}

/// What the packet filter has to know of the VXLAN networks.
pub(super) fn vxlan(networks: &[Option<routes::Network>; 2]) -> VxlanNetworks {
    let of = |network: &Option<routes::Network>| {
        let routes::Network { port, vni, senders } = network.clone()?;
        Some(VxlanNetwork { port, vni, peers: senders })
    };
    let [v4, v6] = networks;
    VxlanNetworks { v4: of(v4), v6: of(v6) }
}

/// Keeps the packet filter in step with the VXLAN networks, for as long as the routes' worker lives.
pub(super) async fn guard(mut networks: watch::Receiver<[Option<routes::Network>; 2]>, dataplane: Dataplane) {
    loop {
        let now = vxlan(&networks.borrow_and_update());
        if let Err(error) = dataplane.set_vxlan(now).await {
            log::warn!("the packet filter does not know who may send VXLAN: {error}");
        }
        if networks.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
