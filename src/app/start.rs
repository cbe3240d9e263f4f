//! Builds the parts, step by step; a step that fails is tried again for as long as it takes, and calls that wait are told
//! what they wait for. A datastore that is down must never end the process: dockerd would disable the plugin.

use super::gate::GateKey;
use crate::cluster;
use crate::config::{Config, Datastore, DefaultPool};
use crate::dataplane::Dataplane;
use crate::driver::{self, Drivers};
use crate::model::{Cidr, IpVersion, NodeName};
use crate::net::{Host, KernelHost, RouteKind};
use crate::store::{EmbeddedStore, SharedStore, StoreError};
use crate::task::Backoff;
use std::fmt::Display;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Pauses between two tries of one step.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Everything that background tasks work with.
#[derive(Clone)]
pub(super) struct Parts {
    pub(super) store: SharedStore,
    pub(super) host: Arc<dyn Host>,
    pub(super) dataplane: Arc<Dataplane>,
    pub(super) drivers: Arc<Drivers>,
}

/// The driver's part of the settings.
pub(super) fn driver_options(config: &Config, node: NodeName) -> driver::Options {
    let nat =
        |pool: &Option<DefaultPool>, otherwise| pool.as_ref().map_or(otherwise, |pool| pool.nat_outgoing);
    driver::Options {
        node,
        scope: config.scope.word(),
        connectivity_scope: config.connectivity_scope.word(),
        create_pools: config.create_pools,
        create_profiles: config.create_profiles,
        shared_datastore: config.datastore != Datastore::Embedded,
        veth_mtu: config.veth_mtu,
        iface_prefix: config.iface_prefix.clone(),
        nat_outgoing: [nat(&config.ipv4_pool, true), nat(&config.ipv6_pool, false)],
    }
}

/// Builds the parts; returns when all of them are there.
pub(super) async fn build(config: &Config, options: driver::Options, key: &GateKey) -> Parts {
    let store = persist(key, || open_store(config)).await;
    let host = persist(key, || async { open_host(config).await }).await;
    persist(key, || prepare_cluster(config, &options, &store, &*host)).await;
    let dataplane = persist(key, || prepare_kernel(config, &*host)).await;
    let drivers = persist(key, || {
        let parts = driver::Parts {
            store: store.clone(),
            local: store.clone(),
            host: host.clone(),
            firewall: dataplane.clone(),
        };
        Drivers::start(parts, options.clone())
    })
    .await;
    Parts { store, host, dataplane, drivers: Arc::new(drivers) }
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

/// Opens the datastore that the settings name.
pub(crate) async fn open_store(config: &Config) -> Result<SharedStore, StoreError> {
    match &config.datastore {
        Datastore::Embedded => {
            let path = config.places.state_file();
            // Opening reads the whole file and may repair it.
            let opened = tokio::task::spawn_blocking(move || EmbeddedStore::open(&path)).await;
            let store = opened.map_err(|error| StoreError::Unavailable { why: error.to_string() })??;
            Ok(Arc::new(store))
        }
        Datastore::Etcd(_) => {
            Err(StoreError::Unavailable { why: "etcd is not a backend of this build".to_owned() })
        }
    }
}

async fn open_host(config: &Config) -> Result<Arc<dyn Host>, crate::net::NetError> {
    let host: Arc<dyn Host> = Arc::new(KernelHost::open(config.places.sysnet.clone()).await?);
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
    let reaches = |kind| matches!(kind, RouteKind::Unicast | RouteKind::Local);
    Ok(routes.into_iter().filter(|route| reaches(route.kind)).map(|route| route.destination).collect())
}

async fn prepare_kernel(config: &Config, host: &dyn Host) -> Result<Arc<Dataplane>, String> {
    host.enable_forwarding().await.map_err(|error| error.to_string())?;
    host.ensure_next_hops().await.map_err(|error| error.to_string())?;
    let dataplane = Dataplane::new(config.forward_accept).await.map_err(|error| error.to_string())?;
    dataplane.ensure().await.map_err(|error| error.to_string())?;
    Ok(Arc::new(dataplane))
}
