//! BGP, if the settings want it; otherwise what it left in the kernel goes.

use crate::bgp::{Parts, Places, Setup, Worker, withdraw};
use crate::config::Config;
use crate::model::NodeName;
use crate::net::SharedUnderlay;
use crate::store::SharedStore;
use crate::task::Supervisor;
use std::convert::Infallible;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Where BIRD's things are.
pub(crate) fn bgp_places(config: &Config) -> Places {
    Places {
        program: config.places.bird.clone(),
        folder: config.places.state_dir.join("bird"),
        run: config.places.host_run.join("calico-libnetwork"),
    }
}

/// What the task works with.
pub(super) struct BgpParts {
    pub(super) store: SharedStore,
    pub(super) host: SharedUnderlay,
    pub(super) node: NodeName,
    /// Whether this plugin programs the host.
    pub(super) active: watch::Receiver<bool>,
}

/// Starts the task.
pub(super) fn spawn(supervisor: &mut Supervisor, config: &Config, parts: BgpParts, stop: &CancellationToken) {
    let BgpParts { store, host, node, active } = parts;
    let places = bgp_places(config);
    let stop = stop.clone();
    if config.bird {
        let setup = Setup { router_id: config.router_id, blackholes: !config.routes };
        let worker = Worker::new(Parts { store, host, node, active, setup, places });
        supervisor.spawn("bgp", async move {
            worker.run(stop).await;
            Ok::<(), Infallible>(())
        });
    } else {
        supervisor.spawn("bgp", async move {
            // Where calico/node programs the host, the routes are its own.
            let ours = *active.borrow();
            match if ours { withdraw(&places, &*host).await } else { Ok(None) } {
                Ok(stays) => stays.iter().for_each(|sentence| log::warn!("{sentence}")),
                Err(error) => log::warn!("routes that BIRD programmed are still in the kernel: {error}"),
            }
            stop.cancelled().await;
            Ok::<(), Infallible>(())
        });
    }
}
