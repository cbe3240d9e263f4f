//! One pass after the other: look, remember since when something is suspect, collect what has been for the grace period.

use super::adopt;
use super::find::{DockerView, Suspect, View, find};
use crate::docker::{ContainerSummary, DockerClient, DockerError, DockerNetwork, ManagedPlugin};
use crate::driver::{ADDRESS_SPACE, DriverError, Drivers, LocalEndpoint, parse_alias};
use crate::model::EndpointId;
use crate::net::Host;
use crate::protocol::CreateEndpoint;
use std::collections::{BTreeMap, BTreeSet, HashMap};
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
    /// What Docker had and the driver did not in the last pass; none before the first.
    missing: Option<BTreeSet<String>>,
}

/// What Docker lists.
struct Listing {
    containers: Vec<ContainerSummary>,
    networks: Vec<DockerNetwork>,
    plugins: Vec<ManagedPlugin>,
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
        Self { drivers, host, docker, grace, since: HashMap::new(), docker_is_silent: false, missing: None }
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
            if self.is_starting(&leak, &view, &endpoints).await {
                self.since.remove(&leak);
                continue;
            }
            let why = suspects.get(&leak).copied().unwrap_or_default();
            match self.collect(&leak, &view, &endpoints).await {
                Ok(()) => log::info!("collected {leak}: {why}"),
                Err(error) => log::warn!("{leak} is left over ({why}) and cannot be collected: {error}"),
            }
            self.since.remove(&leak);
        }
        Ok(())
    }

    /// Whether an endpoint with an interface belongs to a container whose start takes longer than the grace: Docker lists
    /// the container without it until it runs. Without Docker's word it is left alone.
    async fn is_starting(&self, leak: &Suspect, view: &View, endpoints: &Endpoints) -> bool {
        let Suspect::Endpoint(id) = leak else { return false };
        let Some(seen) = endpoints.get(id) else { return false };
        let (Some(_), Some(network)) = (&view.docker, &seen.network) else { return false };
        if !view.links.contains_key(seen.iface.as_str()) {
            return false;
        }
        match self.docker.attached(network.as_str()).await {
            Ok(attached) => attached.contains(id.as_str()),
            Err(error) => {
                log::debug!("whether endpoint {} is starting is not known: {error}", id.short());
                true
            }
        }
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
        let listing = self.ask_docker().await;
        if let Some(listing) = &listing {
            self.adopt(listing).await?;
        }
        let docker = listing.map(|listing| docker_view(&listing));
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

    /// Takes up again what Docker has and the driver does not know: at once after the start, later only what was missing
    /// in the last pass too, because calls under way are known to one side before the other.
    async fn adopt(&mut self, listing: &Listing) -> Result<(), DriverError> {
        let names = adopt::own_names(&listing.plugins);
        let known = self.drivers.known_networks().await?;
        let networks = adopt::networks(&listing.networks, &names, &known, ADDRESS_SPACE);
        let in_ours: BTreeSet<String> =
            networks.iter().map(|call| call.network_id.clone()).chain(known).collect();
        let known = self.drivers.known_endpoints().await?;
        let endpoints = adopt::endpoints(&listing.containers, &in_ours, &known);
        let ids = networks
            .iter()
            .map(|call| &call.network_id)
            .chain(endpoints.iter().map(|call| &call.endpoint_id));
        let before = self.missing.replace(ids.cloned().collect());
        let settled = |id: &String| before.as_ref().is_none_or(|before| before.contains(id));
        for call in networks.iter().filter(|call| settled(&call.network_id)) {
            match self.drivers.adopt_network(call).await {
                Ok(()) => log::info!("network {} was lost and is taken up again", call.network_id),
                Err(error) => log::warn!("network {} is lost to this plugin: {error}", call.network_id),
            }
        }
        for call in endpoints.iter().filter(|call| settled(&call.endpoint_id)) {
            let whole = match self.ask_for_options(&call.endpoint_id, listing).await {
                Ok(Some(whole)) => whole,
                Ok(None) => continue,
                Err(error) => {
                    log::warn!("endpoint {} is not taken up again yet: {error}", call.endpoint_id);
                    break;
                }
            };
            match self.drivers.adopt_endpoint(&whole).await {
                Ok(true) => log::info!("endpoint {} was lost and is taken up again", call.endpoint_id),
                Ok(false) => {}
                Err(error) => log::warn!("endpoint {} is lost to this plugin: {error}", call.endpoint_id),
            }
        }
        Ok(())
    }

    /// The call that made an endpoint, with the `driver-opt`s, labels among them: Docker's list leaves them out (20.10), its
    /// word about one container does not. `None` if the container is gone or has left the network.
    async fn ask_for_options(
        &self,
        endpoint: &str,
        listing: &Listing,
    ) -> Result<Option<CreateEndpoint>, DockerError> {
        let Some(container) = adopt::container_of(&listing.containers, endpoint) else { return Ok(None) };
        let whole = self.docker.container(&container.id).await?;
        Ok(whole.and_then(|container| adopt::endpoint(&container, endpoint)))
    }

    async fn ask_docker(&mut self) -> Option<Listing> {
        let (containers, networks, plugins) =
            (self.docker.containers(), self.docker.networks(), self.docker.plugins());
        match futures::future::try_join3(containers, networks, plugins).await {
            Ok((containers, networks, plugins)) => {
                self.docker_is_silent = false;
                Some(Listing { containers, networks, plugins })
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

/// What the collector's decision needs of Docker's listing.
fn docker_view(listing: &Listing) -> DockerView {
    let mut view = DockerView::default();
    for container in &listing.containers {
        view.known.extend(container.endpoint_ids().map(str::to_owned));
        if container.is_running() {
            view.running.extend(container.endpoint_ids().map(str::to_owned));
        }
    }
    view.networks = listing.networks.iter().map(|network| network.id.clone()).collect();
    view
}
