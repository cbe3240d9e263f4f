//! The composition root: binds the sockets, builds the parts, starts the tasks, waits, drains.
//!
//! ```text
//! bind sockets -> serve (calls wait at the gate) -> open store -> prepare cluster, kernel, drivers -> gate opens
//!                                                                                    \-> background tasks
//! ```
//!
//! A task that ends by itself ends the process (exit code 70): dockerd starts the plugin again, which reads everything
//! back. At the stop the kernel's state stays, so that a restart of the plugin cuts no traffic.

mod admin;
mod bgp;
mod explain;
mod felix;
mod firewall;
mod foreign;
mod gate;
mod heartbeat;
mod host;
mod inside;
mod metrics;
mod node;
mod node_name;
mod policy;
mod replica;
mod routes;
mod standing;
mod start;
mod tasks;
mod tuning;

pub(crate) use bgp::bgp_places;
pub use explain::explain;
pub use node_name::{name_conflict, node_name};
pub use replica::replicate;
pub(crate) use start::{dataplane_options, open_etcd, open_local, open_store};

use crate::admin::{AdminParts, policy_desk};
use crate::config::Config;
use crate::dataplane::Dataplane;
use crate::ipam::Ipam;
use crate::server::{self, Server, ServerError};
use crate::task::{Supervisor, TaskError};
use gate::Gate;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// dockerd kills a plugin 10 s after SIGTERM; calls in flight get 5 s of it, the rest is for the other tasks.
const STOP: Duration = Duration::from_secs(8);
/// Then addresses that calls had asked for which got no answer are given back; the collector does it otherwise, a good while later.
const GIVE_BACK: Duration = Duration::from_secs(1);

/// Why the daemon cannot start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// No socket could be bound.
    #[error("no plugin socket can be served: {0}")]
    Sockets(ServerError),
    /// No name for this node.
    #[error("find out this node's name: {0}; set NODENAME")]
    NodeName(String),
    /// The system refuses a signal handler.
    #[error("wait for signals: {0}")]
    Signals(std::io::Error),
    /// A task ended that must not.
    #[error(transparent)]
    Task(#[from] TaskError),
}

/// Binds the managed plugin's socket and, if wanted, the Go plugin's names. One that cannot be bound is logged; there
/// must be one that can.
pub fn bind(config: &Config) -> Result<Server, AppError> {
    let mut server =
        Server::new(server::Options { deadline: config.request_timeout, ..server::Options::default() });
    let mut refused = None;
    let mut bound = 0;
    let v1 = config.places.v1_sockets();
    let wanted = config.places.socket.iter().chain(v1.iter().filter(|_| config.v1_sockets));
    for path in wanted {
        match server.bind(path) {
            Ok(()) => bound += 1,
            Err(error) => {
                log::warn!("{error}");
                refused = Some(error);
            }
        }
    }
    match refused {
        Some(error) if bound == 0 => Err(AppError::Sockets(error)),
        _ => Ok(server),
    }
}

/// Runs the daemon until SIGTERM or SIGINT, or until a task fails.
pub async fn run(config: Config, server: Server) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    let node = node_name(&config).map_err(AppError::NodeName)?;
    log::info!("calico-libnetwork {} on node {node}", env!("CARGO_PKG_VERSION"));
    if let Some(conflict) = name_conflict(&config) {
        log::warn!("{conflict}");
    }

    let shutdown = CancellationToken::new();
    let mut supervisor = Supervisor::new(shutdown.clone());
    let options = start::driver_options(&config, node.clone());
    let (gate, key) = Gate::new(options.scopes, config.request_timeout);
    let counts = metrics::Metrics::default();
    let served = tasks::spawn_server(&mut supervisor, server, Arc::new(counts.handler(gate)), &shutdown);

    let admin = admin::spawn(&mut supervisor, &config, &shutdown);
    let (desk, inbox) = policy_desk();
    let mut inbox = Some(inbox);
    let mut ipam = None;
    let (dataplane, worker) = Dataplane::new(start::dataplane_options(&config));
    let page = counts.page(dataplane.clone(), desk.clone());
    metrics::listen(&mut supervisor, &config, &page, &shutdown).await;
    let stop_worker = served.clone();
    supervisor.spawn("dataplane", async move {
        worker.run(stop_worker).await;
        Ok::<(), Infallible>(())
    });
    let building = start::build(&config, options, dataplane, (&key, &counts));
    tokio::pin!(building);
    let ended = loop {
        tokio::select! {
            _ = terminate.recv() => break None,
            _ = interrupt.recv() => break None,
            error = supervisor.failed() => break Some(error),
            (parts, policy, tuning, routes) = &mut building, if inbox.is_some() => {
                let Some(inbox) = inbox.take() else { continue };
                tasks::spawn_policy(&mut supervisor, policy, inbox, &served);
                tasks::spawn_foreign_routes(&mut supervisor, &tuning, &parts, &shutdown);
                tasks::spawn_tuning(&mut supervisor, tuning, &shutdown);
                tasks::spawn_routes(&mut supervisor, routes, &parts.dataplane, &shutdown);
                ipam = Some(parts.drivers.ipam().clone());
                counts.count_addresses(parts.drivers.ipam().clone());
                admin.send_replace(Some(AdminParts {
                    store: parts.store.clone(),
                    policy: desk.clone(),
                    metrics: page.clone(),
                }));
                key.open(parts.drivers.clone());
                log::info!("ready");
                tasks::spawn(&mut supervisor, &config, parts, &shutdown);
            }
        }
    };
    log::info!("stopping");
    let stopped = supervisor.stop(STOP).await;
    give_back(ipam).await;
    match ended {
        Some(error) => Err(error.into()),
        None => Ok(stopped?),
    }
}

/// Waits for addresses that nobody waits for any more to be given back.
async fn give_back(ipam: Option<Ipam>) {
    let Some(ipam) = ipam else { return };
    if tokio::time::timeout(GIVE_BACK, ipam.drain()).await.is_err() {
        log::debug!("address requests are under way at the end: the collector sees to them");
    }
}
