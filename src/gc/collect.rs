//! One pass after the other: look, remember since when something is suspect, collect what has been for the grace period.

use super::find::{DockerView, Suspect, View, find};
use crate::docker::DockerClient;
use crate::driver::{DriverError, Drivers, LocalEndpoint, parse_alias};
use crate::model::EndpointId;
use crate::net::Host;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The driver's endpoints as they were looked at.
type Endpoints = BTreeMap<EndpointId, LocalEndpoint>;

/// Collects leaks. Owned by one task.
pub struct Collector {
    drivers: Arc<Drivers>,
    host: Arc<dyn Host>,
    docker: DockerClient,
    grace: Duration,
    /// Since when each suspect has been one without a break.
    since: HashMap<Suspect, Instant>,
    /// Whether Docker's silence has been logged; it is said once, not every minute.
    docker_is_silent: bool,
}

impl std::fmt::Debug for Collector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Collector")
            .field("grace", &self.grace)
            .field("since", &self.since)
            .finish_non_exhaustive()
    }
}

impl Collector {
    /// A collector that takes nothing that has not been suspect for `grace`.
    #[must_use]
    pub fn new(drivers: Arc<Drivers>, host: Arc<dyn Host>, docker: DockerClient, grace: Duration) -> Self {
        Self { drivers, host, docker, grace, since: HashMap::new(), docker_is_silent: false }
    }

    /// One pass, which begins with what is not a leak but a loss: endpoints that could not be repaired. What cannot be collected is logged and tried again in the next one.
    pub async fn pass(&mut self) -> Result<(), DriverError> {
        self.drivers.repair_unrepaired().await;
        let (view, endpoints) = self.look().await?;
        let suspects = find(&view);
        let now = Instant::now();
        self.since.retain(|suspect, _| suspects.contains_key(suspect));
        for suspect in suspects.keys() {
            self.since.entry(suspect.clone()).or_insert(now);
        }
        let ripe = |suspect: &&Suspect| {
            self.since.get(suspect).is_some_and(|since| now.duration_since(*since) >= self.grace)
        };
        // In the order of the enum: endpoints before their addresses, networks before their pools.
        let leaks: Vec<Suspect> = suspects.keys().filter(ripe).cloned().collect();
        for leak in leaks {
            let why = suspects.get(&leak).copied().unwrap_or_default();
            match self.collect(&leak, &view, &endpoints).await {
                Ok(()) => log::info!("collected {leak}: {why}"),
                Err(error) => log::warn!("{leak} is left over ({why}) and cannot be collected: {error}"),
            }
            self.since.remove(&leak);
        }
        Ok(())
    }

    async fn collect(&self, leak: &Suspect, view: &View, endpoints: &Endpoints) -> Result<(), DriverError> {
        match leak {
            Suspect::Endpoint(id) => match endpoints.get(id) {
                Some(seen) => self.drivers.collect_endpoint(seen).await,
                None => Ok(()),
            },
            Suspect::Unknown(id) => self.drivers.collect_unknown_endpoint(id).await,
            Suspect::Address(ip) => self.drivers.collect_address(*ip, self.grace).await,
            Suspect::Network(id) => self.drivers.collect_network(id).await,
            Suspect::Pool(name) => self.drivers.collect_pool(name).await,
            Suspect::Link(name) => match view.links.get(name).cloned().flatten() {
                Some(id) => self.drivers.collect_link(&id).await,
                None => Ok(()),
            },
        }
    }

    /// Docker is asked before the driver: an endpoint made between the two is then unknown to neither. For the same
    /// reason the driver is asked before the kernel and the datastore.
    async fn look(&mut self) -> Result<(View, Endpoints), DriverError> {
        let docker = self.ask_docker().await;
        let endpoints: Endpoints = self
            .drivers
            .local_endpoints()
            .into_iter()
            .map(|endpoint| (endpoint.id.clone(), endpoint))
            .collect();
        let links = self.host.links().await?;
        let owner = |alias: &str| parse_alias(alias).map(|(id, _)| id);
        let links: BTreeMap<_, _> =
            links.into_iter().map(|link| (link.name, link.alias.as_deref().and_then(owner))).collect();
        let view = View {
            endpoints: endpoints.values().map(|e| (e.id.clone(), e.iface.clone())).collect(),
            unknown_endpoints: self.drivers.unknown_endpoints().await?,
            links,
            unused_addresses: self.drivers.unused_addresses(self.grace).await?,
            idle_networks: self.drivers.idle_networks().await?,
            unused_pools: self.drivers.unused_pools().await?,
            docker,
        };
        Ok((view, endpoints))
    }

    async fn ask_docker(&mut self) -> Option<DockerView> {
        let answers = futures::future::try_join(self.docker.containers(), self.docker.networks()).await;
        match answers {
            Ok((containers, networks)) => {
                self.docker_is_silent = false;
                let mut view = DockerView::default();
                for container in &containers {
                    view.known.extend(container.endpoint_ids().map(str::to_owned));
                    if container.is_running() {
                        view.running.extend(container.endpoint_ids().map(str::to_owned));
                    }
                }
                view.networks = networks.into_iter().map(|network| network.id).collect();
                Some(view)
            }
            Err(error) => {
                if !std::mem::replace(&mut self.docker_is_silent, true) {
                    log::warn!("only the kernel tells what is left over: {error}");
                }
                None
            }
        }
    }
}
