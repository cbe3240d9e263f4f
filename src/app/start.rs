//! Builds the parts, step by step; a step that fails is tried again for as long as it takes, and calls that wait are told
//! what they wait for. A datastore that is down must never end the process: dockerd would disable the plugin.

use super::felix::{FelixParts, FelixWatch};
use super::gate::GateKey;
use super::metrics::Metrics;
use super::policy::PolicyFeed;
use super::replica::replicate;
use super::tuning::TuningFeed;
use crate::cluster::{self, DatastoreLock, NameClaim, NodeKeeper};
use crate::config::{Config, Datastore, DefaultPool, EtcdConfig, EtcdMembers};
use crate::dataplane::{self, Dataplane, ForwardAccept, LegacyTools};
use crate::driver::{self, Drivers, Scopes};
use crate::model::{Cidr, IfaceName, IpVersion, NodeName};
use crate::net::{Host, HostRoute, KernelHost, ROUTE_PROTOCOL, RouteKind, SharedUnderlay};
use crate::routes;
use crate::store::etcd::TlsFiles;
use crate::store::{EmbeddedStore, EtcdOptions, EtcdStore, SharedStore, StoreError};
use crate::task::{Backoff, Task};
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, watch};

/// Pauses between two tries of one step.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Everything that background tasks work with.
pub(super) struct Parts {
    pub(super) store: SharedStore,
    pub(super) underlay: SharedUnderlay,
    pub(super) dataplane: Dataplane,
    pub(super) drivers: Arc<Drivers>,
    pub(super) keeper: NodeKeeper,
    pub(super) lock: DatastoreLock,
    pub(super) felix: FelixWatch,
    /// Whether this plugin programs the host.
    pub(super) active: watch::Receiver<bool>,
}

/// The driver's part of the settings.
pub(super) fn driver_options(config: &Config, node: NodeName) -> driver::Options {
    let nat =
        |pool: &Option<DefaultPool>, otherwise| pool.as_ref().map_or(otherwise, |pool| pool.nat_outgoing);
    driver::Options {
        node,
        scopes: Scopes { network: config.scope.word(), connectivity: config.connectivity_scope.word() },
        create_pools: config.create_pools,
        create_profiles: config.create_profiles,
        shared_datastore: config.datastore != Datastore::Embedded,
        veth_mtu: config.veth_mtu,
        iface_prefix: config.iface_prefix.clone(),
        nat_outgoing: [nat(&config.ipv4_pool, true), nat(&config.ipv6_pool, false)],
    }
}

/// The dataplane's part of the settings.
pub(crate) fn dataplane_options(config: &Config) -> dataplane::Options {
    let forward_accept = if config.forward_accept { ForwardAccept::Auto } else { ForwardAccept::Never };
    let defaults = dataplane::Options::default();
    let legacy = LegacyTools { lock: config.places.xtables_lock(), ..defaults.legacy };
    dataplane::Options { forward_accept, legacy, ..defaults }
}

fn etcd_options(config: &EtcdConfig) -> EtcdOptions {
    let (certificate, key) = config.client_files.clone().unzip();
    let (endpoints, discovery) = match &config.members {
        EtcdMembers::Urls(urls) => (urls.clone(), None),
        EtcdMembers::Srv(domain) => (Vec::new(), Some(domain.clone())),
    };
    EtcdOptions {
        credentials: config.user.clone(),
        tls: TlsFiles { ca: config.ca_file.clone(), certificate, key },
        discovery,
        ..EtcdOptions::new(endpoints)
    }
}

/// Builds the parts; returns when all of them are there.
pub(super) async fn build(
    config: &Config,
    options: driver::Options,
    dataplane: Dataplane,
    (key, counts): (&GateKey, &Metrics),
) -> (Parts, PolicyFeed, TuningFeed, Option<routes::Worker>) {
    let local = persist(key, || open_local(config)).await;
    let store = persist(key, || async { open_store(config, &local) }).await;
    let store: SharedStore = match &config.datastore {
        Datastore::Embedded => store,
        Datastore::Etcd(_) => replicate(store, &options.node),
    };
    let lock = DatastoreLock::new(store);
    persist(key, || lock.read()).await;
    let store = counts.store(lock.guard());
    // The start writes, too, and goes on when a lock is opened.
    let _following = Task::spawn(lock.clone().follow());
    let (active, programs) = watch::channel(true);
    let underlay = persist(key, || open_host(config, &programs)).await;
    let host: Arc<dyn Host> = underlay.clone();
    persist(key, || prepare_cluster(config, &options, &store, &*host)).await;
    let machine = persist(key, || cluster::machine_id(&*local)).await;
    let name = options.node.clone();
    let keeper = NodeKeeper::new(store.clone(), host.clone(), name, config.node.clone(), machine);
    publish(config, key, &keeper).await;
    persist(key, || prepare_kernel(&*host)).await;
    let felix = FelixWatch::start(FelixParts {
        mode: config.dataplane,
        store: store.clone(),
        node: options.node.clone(),
        host: host.clone(),
        dataplane: dataplane.clone(),
        options: dataplane_options(config),
        active,
    })
    .await;
    let drivers = persist(key, || {
        let parts = driver::Parts {
            store: store.clone(),
            local: local.clone(),
            host: host.clone(),
            firewall: Arc::new(dataplane.clone()),
        };
        Drivers::start(parts, options.clone())
    })
    .await;
    let bridges = super::tasks::bridges_by_name(&*host).await;
    let bridges: Vec<IfaceName> = bridges.iter().filter_map(|name| IfaceName::new(name).ok()).collect();
    persist(key, || dataplane.set_docker_bridges(&bridges)).await;
    let policy = persist(key, || PolicyFeed::start(store.clone(), dataplane.clone(), &options.node)).await;
    let tuning = TuningFeed::new(config, store.clone(), dataplane.clone(), options.node.clone());
    persist(key, || tuning.load()).await;
    let active = programs.clone();
    let routes = super::routes::prepare(config, (&store, &underlay), drivers.ipam(), programs).await;
    if let Some(routes) = &routes {
        let networks = super::routes::vxlan(&routes.networks().borrow());
        persist(key, || dataplane.set_vxlan(networks.clone())).await;
    }
    // Only now, when it knows all endpoints, their policy, pools, ports and peers: what a former process left in force is adopted in one
    // step, and no packet of a running container sees anything in between.
    persist(key, || dataplane.ensure()).await;
    let drivers = Arc::new(drivers);
    (Parts { store, underlay, dataplane, drivers, keeper, lock, felix, active }, policy, tuning, routes)
}

/// Publishes this host under its node name, once that is known to be nobody else's.
async fn publish(config: &Config, key: &GateKey, keeper: &NodeKeeper) {
    if config.datastore != Datastore::Embedded {
        let claim = Mutex::new(NameClaim::new(keeper.clone()));
        persist(key, || async { claim.lock().await.make().await }).await;
    }
    // What cannot be published now is tried again; this host works without.
    match keeper.publish().await {
        Ok(published) => super::node::note(&published),
        Err(error) => log::warn!("{error}"),
    }
}

/// Tries a step until it succeeds.
async fn persist<T, E, F, Fut>(key: &GateKey, mut step: F) -> T
where
    E: Display,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut said = String::new();
    loop {
        match step().await {
            Ok(done) => return done,
            Err(error) => {
                let sentence = error.to_string();
                if sentence != said {
                    log::error!("{sentence}");
                }
                key.waits_for(sentence.clone());
                said = sentence;
                backoff.pause().await;
            }
        }
    }
}

/// Opens this node's own state, which is also the datastore of a single machine.
pub(crate) async fn open_local(config: &Config) -> Result<SharedStore, StoreError> {
    let path = config.places.state_file();
    // Opening reads the whole file and may repair it.
    let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path)).await;
    let store = opened.map_err(|error| StoreError::Unavailable { why: error.to_string() })??;
    Ok(Arc::new(store))
}

/// The datastore that the settings name.
pub(crate) fn open_store(config: &Config, local: &SharedStore) -> Result<SharedStore, StoreError> {
    match &config.datastore {
        Datastore::Embedded => Ok(local.clone()),
        Datastore::Etcd(etcd) => Ok(Arc::new(open_etcd(etcd))),
    }
}

/// etcd as the settings describe it.
pub(crate) fn open_etcd(config: &EtcdConfig) -> EtcdStore {
    EtcdStore::connect(etcd_options(config))
}

async fn open_host(
    config: &Config,
    active: &watch::Receiver<bool>,
) -> Result<SharedUnderlay, crate::net::NetError> {
    let host = KernelHost::open(config.places.sysnet.clone()).await?.beside(active.clone());
    let host: SharedUnderlay = Arc::new(host);
    host.check().await?;
    Ok(host)
}

async fn prepare_cluster(
    config: &Config,
    options: &driver::Options,
    store: &SharedStore,
    host: &dyn Host,
) -> Result<(), String> {
    let text = |error: StoreError| error.to_string();
    cluster::ensure_initialized(&**store, &options.node).await.map_err(text)?;
    let routes = host_prefixes(host).await.map_err(|error| error.to_string())?;
    for (version, wanted) in [(IpVersion::V4, &config.ipv4_pool), (IpVersion::V6, &config.ipv6_pool)] {
        let Some(wanted) = wanted else { continue };
        let made = cluster::ensure_default_pool(&**store, version, wanted, &routes).await.map_err(text)?;
        if let Err(obstacle) = made {
            log::warn!("{obstacle}");
        }
    }
    Ok(())
}

/// What the host itself reaches through its links: a pool must not cover it.
async fn host_prefixes(host: &dyn Host) -> Result<Vec<Cidr>, crate::net::NetError> {
    let routes = host.host_routes().await?;
    let foreign = |route: &HostRoute| {
        matches!(route.kind, RouteKind::Unicast | RouteKind::Local) && route.protocol != ROUTE_PROTOCOL
    };
    Ok(routes.into_iter().filter(foreign).map(|route| route.destination).collect())
}

async fn prepare_kernel(host: &dyn Host) -> Result<(), crate::net::NetError> {
    host.enable_forwarding().await?;
    host.ensure_next_hops().await?;
    Ok(())
}
