//! The background tasks: each owns one concern, each runs until the shutdown.

use super::bgp::{self, BgpParts};
use super::foreign::ForeignRoutes;
use super::host::watch_host;
use super::inside::InsideRoutes;
use super::node::NodeTask;
use super::node_name::node_name;
use super::policy::PolicyFeed;
use super::start::Parts;
use super::tuning::TuningFeed;
use crate::admin::PolicyInbox;
use crate::config::{Config, Datastore};
use crate::config_network::ConfigNetworks;
use crate::dataplane::Dataplane;
use crate::docker::DockerClient;
use crate::driver::Drivers;
use crate::gc::Collector;
use crate::labels::LabelSync;
use crate::model::{IfaceName, IpPoolSpec, key};
use crate::net::{Host, HostEvent, may_enter_containers};
use crate::routes;
use crate::server::{Handler, Server};
use crate::store::{SharedStore, StoreError};
use crate::task::{Backoff, Supervisor};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often Docker's own bridges are looked up besides kernel events: names that users gave are known to Docker only.
const BRIDGES_EVERY: Duration = Duration::from_secs(30);
/// Pauses between the looks after an event: the engine makes a bridge before it lists the network, and lists one for a
/// moment whose bridge is gone.
const BRIDGES_AGAIN: [Duration; 3] =
    [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];
/// Pauses after a watch or a subscription broke.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Starts all background tasks.
pub(super) fn spawn(
    supervisor: &mut Supervisor,
    config: &Config,
    parts: Parts,
    shutdown: &CancellationToken,
) {
    let docker = DockerClient::new(&config.places.docker_socket());
    let until = |token: &CancellationToken| token.clone().cancelled_owned();
    let Parts { store, underlay, dataplane, drivers, keeper, lock, felix, active } = parts;
    let host: Arc<dyn Host> = underlay.clone();
    supervisor.spawn("felix", stoppable(until(shutdown), felix.run(drivers.clone())));
    supervisor.spawn("lock", stoppable(until(shutdown), lock.follow()));
    let shared = config.datastore != Datastore::Embedded;
    let node = NodeTask::new(keeper, store.clone(), host.clone(), shared);
    supervisor.spawn("node", stoppable(until(shutdown), node.run()));
    supervisor.spawn("pools", stoppable(until(shutdown), watch_pools(store.clone(), drivers.clone())));
    supervisor.spawn("host", stoppable(until(shutdown), watch_host(host.clone(), drivers.clone())));
    match node_name(config) {
        Ok(node) => {
            let parts = BgpParts { store, host: underlay, node, active };
            bgp::spawn(supervisor, config, parts, shutdown);
        }
        Err(error) => log::error!("BGP does not run: {error}"),
    }
    if may_enter_containers() {
        let inside = InsideRoutes::new(host.clone(), drivers.clone(), config.places.host_run.clone());
        supervisor.spawn("inside", stoppable(until(shutdown), inside.run()));
    }
    let bridges = watch_bridges(host.clone(), docker.clone(), dataplane);
    supervisor.spawn("bridges", stoppable(until(shutdown), bridges));
    if config.places.socket.is_some() && config.v1_sockets {
        supervisor.spawn("v1 names", stoppable(until(shutdown), announce_v1_names(docker.clone())));
    }
    if let Some(patience) = config.label_patience {
        let labels = LabelSync::new(drivers.clone(), docker.clone(), patience);
        supervisor.spawn("labels", stoppable(until(shutdown), labels.run()));
    }
    if !config.config_networks.is_empty() {
        let managed = config.places.socket.is_some();
        let networks = ConfigNetworks::new(config.config_networks.clone(), docker.clone(), managed);
        supervisor.spawn("config networks", stoppable(until(shutdown), networks.run()));
    }
    if let Some(interval) = config.gc_interval {
        let collector = Collector::new(drivers, host, docker, config.gc_grace);
        supervisor.spawn("collector", stoppable(until(shutdown), collect(collector, interval)));
    }
}

/// Starts the server. The token that is returned is cancelled after the last call: the calls that are under way at the
/// stop need the packet filter and its policy to their end.
pub(super) fn spawn_server(
    supervisor: &mut Supervisor,
    server: Server,
    handler: Arc<dyn Handler>,
    shutdown: &CancellationToken,
) -> CancellationToken {
    let served = CancellationToken::new();
    let after_the_last_call = served.clone().drop_guard();
    let serving = server.serve(handler, shutdown.clone());
    supervisor.spawn("server", async move {
        let _cancels = after_the_last_call;
        serving.await
    });
    served
}

/// Starts the task that keeps policy in step with the datastore; before calls are answered, because endpoints wait for
/// it, and until the last is: `served`.
pub(super) fn spawn_policy(
    supervisor: &mut Supervisor,
    policy: PolicyFeed,
    inbox: PolicyInbox,
    served: &CancellationToken,
) {
    supervisor.spawn("policy", stoppable(served.clone().cancelled_owned(), policy.run(inbox)));
}

/// Starts the task that keeps the packet filter's behaviour in step with FelixConfiguration.
pub(super) fn spawn_tuning(supervisor: &mut Supervisor, tuning: TuningFeed, shutdown: &CancellationToken) {
    supervisor.spawn("tuning", stoppable(shutdown.clone().cancelled_owned(), tuning.run()));
}

/// Starts the task that takes away what others route to endpoints, as FelixConfiguration says.
pub(super) fn spawn_foreign_routes(
    supervisor: &mut Supervisor,
    tuning: &TuningFeed,
    parts: &Parts,
    shutdown: &CancellationToken,
) {
    let (host, drivers) = (parts.underlay.clone(), parts.drivers.clone());
    let foreign = ForeignRoutes::new(host, drivers, tuning.removes_external_routes());
    supervisor.spawn("foreign routes", stoppable(shutdown.clone().cancelled_owned(), foreign.run()));
}

/// Starts the task that keeps the routes between nodes, if they are this plugin's.
pub(super) fn spawn_routes(
    supervisor: &mut Supervisor,
    routes: Option<routes::Worker>,
    dataplane: &Dataplane,
    shutdown: &CancellationToken,
) {
    if let Some(routes) = routes {
        let guard = super::routes::guard(routes.networks(), dataplane.clone());
        supervisor.spawn("tunnel guard", stoppable(shutdown.clone().cancelled_owned(), guard));
        supervisor.spawn("routes", stoppable(shutdown.clone().cancelled_owned(), routes.run()));
    }
}

/// A task that runs for ever, and ends in order when it is told to.
async fn stoppable(stop: impl Future<Output = ()>, task: impl Future<Output = ()>) -> Result<(), Infallible> {
    tokio::select! {
        () = stop => {}
        () = task => {}
    }
    Ok(())
}

/// Keeps NAT in step with pools that others create, change or delete.
async fn watch_pools(store: SharedStore, drivers: Arc<Drivers>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        match follow_pools(&store, &drivers, &mut backoff).await {
            Ok(()) => {}
            Err(StoreError::Compacted { .. }) => log::debug!("the pools are listed again"),
            Err(error) => log::warn!("the pools are not followed for a moment: {error}"),
        }
        backoff.pause().await;
    }
}

async fn follow_pools(
    store: &SharedStore,
    drivers: &Drivers,
    backoff: &mut Backoff,
) -> Result<(), StoreError> {
    let prefix = key::resources::<IpPoolSpec>();
    let listing = store.list(&prefix).await?;
    let mut changes = store.watch(&prefix, listing.revision);
    loop {
        if let Err(error) = drivers.refresh_pools().await {
            log::warn!("NAT does not know the pools as they are: {error}");
        }
        match changes.next().await {
            Some(Ok(_)) => backoff.reset(),
            Some(Err(error)) => return Err(error),
            None => return Ok(()),
        }
    }
}

/// Tells the packet filter which bridges are Docker's: what leaves towards them is Docker's to decide.
async fn watch_bridges(host: Arc<dyn Host>, docker: DockerClient, dataplane: Dataplane) {
    let mut known = BTreeSet::new();
    let mut events = None;
    let mut again = BRIDGES_AGAIN.iter();
    loop {
        if events.is_none() {
            events = host.monitor().await.ok();
        }
        let links =
            host.links().await.map(|links| links.into_iter().map(|link| link.name)).into_iter().flatten();
        let mut bridges: BTreeSet<String> = links.filter(|name| is_docker_bridge(name)).collect();
        // An engine that does not answer now has told its names before, or the next time.
        let named = docker.networks().await.unwrap_or_default();
        bridges.extend(named.iter().filter_map(crate::docker::DockerNetwork::bridge_name));
        if bridges != known {
            let names: Vec<IfaceName> = bridges.iter().filter_map(|name| IfaceName::new(name).ok()).collect();
            match dataplane.set_docker_bridges(&names).await {
                Ok(()) => known = bridges,
                Err(error) => log::warn!("the packet filter does not know Docker's bridges: {error}"),
            }
        }
        if until_bridges_change(&mut events, *again.next().unwrap_or(&BRIDGES_EVERY)).await {
            again = BRIDGES_AGAIN.iter();
        }
    }
}

/// Waits until a bridge comes, goes or changes, and says so, or for so long that names are to be looked up anyway. An
/// engine up to 27 protects a new bridge's containers from our packets only once the packet filter knows the bridge.
async fn until_bridges_change(events: &mut Option<BoxStream<'static, HostEvent>>, longest: Duration) -> bool {
    let again = tokio::time::sleep(longest);
    tokio::pin!(again);
    loop {
        let event = async {
            match events {
                Some(events) => events.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = &mut again => return false,
            event = event => match event {
                Some(HostEvent::Link(change)) if change.link.kind.as_deref() != Some("bridge") => {}
                Some(HostEvent::Link(_) | HostEvent::Resync) => return true,
                Some(_) => {}
                None => {
                    *events = None;
                    tokio::time::sleep(LONGEST_PAUSE).await;
                    return false;
                }
            },
        }
    }
}

/// The bridges that bear a name of Docker's making.
pub(super) async fn bridges_by_name(host: &dyn Host) -> BTreeSet<String> {
    let links = host.links().await.unwrap_or_default();
    links.into_iter().map(|link| link.name).filter(|name| is_docker_bridge(name)).collect()
}

/// Names that Docker gives bridges: `docker0`, `docker_gwbridge`, and `br-` with twelve hex digits.
fn is_docker_bridge(name: &str) -> bool {
    let numbered = |rest: &str| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit());
    name == "docker0" || name == "docker_gwbridge" || name.strip_prefix("br-").is_some_and(numbered)
}

/// Makes the engine know the v1 name `calico`. It would never dial that socket by itself: asked for a driver `calico` it
/// finds the managed plugin `calico:latest`, stops looking, and then misses the driver under the short name (moby
/// `plugin/store.go`, 20.10 to 29). Listing volumes dials all v1 sockets. The engine forgets with its end, and this
/// plugin is started again with the engine.
async fn announce_v1_names(docker: DockerClient) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    while let Err(error) = docker.list_volumes().await {
        log::debug!("the engine does not know the v1 names yet: {error}");
        backoff.pause().await;
    }
    std::future::pending().await
}

async fn collect(mut collector: Collector, interval: Duration) {
    loop {
        if let Err(error) = collector.pass().await {
            log::warn!("leaks are not looked for this time: {error}");
        }
        tokio::time::sleep(interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_bridges_are_told_from_others() {
        for name in ["docker0", "docker_gwbridge", "br-0123456789ab"] {
            assert!(is_docker_bridge(name), "{name}");
        }
        for name in ["br0", "br-lan", "br-ex", "virbr0", "br-0123456789abc", "cali01234567890"] {
            assert!(!is_docker_bridge(name), "{name}");
        }
    }
}
