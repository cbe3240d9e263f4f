//! What Docker's calls mean: networks, pools, addresses and endpoints.
//!
//! [`Drivers::handle`] is the one place that maps calls to verbs. Every verb is idempotent, because engines repeat
//! calls and forget what they did; a failure undoes what its call has done. Nothing here asks Docker anything.
//!
//! ```text
//! pool.rs      RequestPool, ReleasePool          address.rs   RequestAddress, ReleaseAddress
//! network.rs   CreateNetwork, DeleteNetwork      endpoint.rs  CreateEndpoint, DeleteEndpoint
//! sandbox.rs   Join, Leave                       ports.rs     Program-, RevokeExternalConnectivity
//! siblings.rs  several networks, one container   collect.rs    what the collector may ask
//! container.rs what a container's kernel knows   swarm.rs      addresses that swarm's leader takes
//! adopt.rs     what Docker has and we lost       go_plugin.rs  what the Go plugin left
//! label.rs     labels of containers              foreign.rs    routes of others to endpoints
//! plan.rs, merge.rs, options.rs, pool_id.rs, record.rs: pure
//! ```

mod address;
mod adopt;
mod collect;
mod container;
mod endpoint;
mod error;
mod firewall;
mod foreign;
mod go_plugin;
mod index;
mod label;
mod locks;
mod merge;
mod network;
mod options;
mod plan;
mod pool;
mod pool_id;
mod ports;
mod profile;
mod record;
mod sandbox;
mod siblings;
mod spacing;
mod swarm;
mod uplink;

pub use address::handle_prefix;
pub use error::DriverError;
pub use firewall::{Firewall, PoolNat, PublishedPort};
pub use index::{LocalEndpoint, Sandbox};
pub use merge::ContainerFacts;
pub use profile::release_node as release_profiles_of;

use crate::ipam::Ipam;
use crate::model::{IpPoolSpec, MacAddress, NodeName, ObjectMeta, Resource, WorkloadEndpointSpec, key};
use crate::net::Host;
use crate::protocol::{
    AddressSpaces, AllocateNetworkAnswer, GwAllocCheckAnswer, IpamCapabilities, NetworkCapabilities,
    OperInfoAnswer, Request, Response,
};
use crate::store::{SharedStore, typed};
use error::refused;
use index::EndpointIndex;
use locks::Locks;
use std::sync::Arc;
use std::time::SystemTime;

/// The address space of this plugin's IPAM, local and global: two names send engines into their overlap check.
pub const ADDRESS_SPACE: &str = "CalicoAddressSpace";
/// What the Go plugin's networks carry.
const LEGACY_ADDRESS_SPACES: [&str; 2] = ["CalicoLocalAddressSpace", "CalicoGlobalAddressSpace"];
/// First word of the alias of every interface that this plugin makes: proof of ownership for the collector.
const ALIAS: &str = "calico-docker";

/// What Docker is told of the driver's reach, each `local` or `global`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scopes {
    /// Who asks for addresses on a swarm: the node that runs the task, or the leader.
    pub network: &'static str,
    /// Whether swarm's service discovery is on.
    pub connectivity: &'static str,
}

/// How the drivers behave; from the settings.
#[derive(Debug, Clone)]
pub struct Options {
    /// This host's Calico node name.
    pub node: NodeName,
    /// What Docker is told of the driver's reach.
    pub scopes: Scopes,
    /// Whether `--subnet` outside every pool makes a pool.
    pub create_pools: bool,
    /// Whether networks get a profile.
    pub create_profiles: bool,
    /// Whether other nodes share the datastore, so that Docker's own IPAM cannot be used.
    pub shared_datastore: bool,
    /// MTU of container interfaces; `None` for the host's.
    pub veth_mtu: Option<u32>,
    /// What interface names in containers begin with.
    pub iface_prefix: String,
    /// Whether pools that `--subnet` makes are masqueraded, IPv4 and IPv6.
    pub nat_outgoing: [bool; 2],
}

/// The network driver and the IPAM driver.
pub struct Drivers {
    /// Calico's data.
    store: SharedStore,
    /// This node's own state; the same store where the datastore is embedded.
    local: SharedStore,
    ipam: Ipam,
    host: Arc<dyn Host>,
    firewall: Arc<dyn Firewall>,
    options: Options,
    endpoints: EndpointIndex,
    ports: ports::PortBook,
    pending_pools: pool::PendingPools,
    uplink_mtu: uplink::UplinkMtu,
    locks: Locks,
    releases: spacing::Spacing,
}

impl std::fmt::Debug for Drivers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Drivers").field("options", &self.options).finish_non_exhaustive()
    }
}

/// What the drivers work with.
pub struct Parts {
    /// Calico's data.
    pub store: SharedStore,
    /// This node's own state.
    pub local: SharedStore,
    /// The host's links, routes and neighbours.
    pub host: Arc<dyn Host>,
    /// The host's packet filter.
    pub firewall: Arc<dyn Firewall>,
}

impl Drivers {
    /// Reads back what a former process left: endpoints from the datastore, where they are joined from the kernel, and
    /// programs the kernel for them. What is missing is repaired, nothing that works is touched.
    pub async fn start(parts: Parts, options: Options) -> Result<Self, DriverError> {
        let Parts { store, local, host, firewall } = parts;
        let ipam = Ipam::new(store.clone(), options.node.clone());
        let drivers = Self {
            store,
            local,
            ipam,
            host,
            firewall,
            options,
            endpoints: EndpointIndex::default(),
            ports: ports::PortBook::default(),
            pending_pools: pool::PendingPools::default(),
            uplink_mtu: uplink::UplinkMtu::default(),
            locks: Locks::default(),
            releases: spacing::Spacing::default(),
        };
        drivers.load_endpoints().await?;
        drivers.refresh_pools().await?;
        drivers.restore_ports().await?;
        drivers.repair_all().await;
        Ok(drivers)
    }

    async fn load_endpoints(&self) -> Result<(), DriverError> {
        let prefix = key::namespaced::<WorkloadEndpointSpec>(
            crate::model::ORCHESTRATOR,
            &crate::model::endpoint_name_prefix(&self.options.node),
        );
        let stored = typed::list::<Resource<WorkloadEndpointSpec>>(&*self.store, &prefix).await?;
        for resource in &stored {
            let Some((id, network, ips, iface)) = plan::read_endpoint(&self.options.node, &resource.value)
            else {
                continue;
            };
            let mac = resource.value.spec.mac.parse().unwrap_or_else(|_| MacAddress::of_endpoint(&id));
            let endpoint = LocalEndpoint { id, network, iface, ips, mac, ifname: None, sandbox: None };
            self.endpoints.insert(endpoint);
        }
        for link in self.host.links().await? {
            if let Some((id, sandbox)) = link.alias.as_deref().and_then(parse_alias) {
                self.endpoints.found_joined(&id, sandbox);
            }
        }
        Ok(())
    }

    /// The node's IPAM, for whoever else in this process assigns or counts addresses: what comes together is written
    /// together.
    #[must_use]
    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }

    /// One call of Docker.
    pub async fn handle(&self, request: Request) -> Result<Response, DriverError> {
        if let Some(answer) = answer_at_once(self.options.scopes, &request) {
            return Ok(answer);
        }
        match request {
            Request::RequestPool(call) => self.request_pool(&call).await.map(Response::Pool),
            Request::ReleasePool(call) => self.release_pool(&call).await.map(empty),
            Request::RequestAddress(call) => self.request_address(&call).await.map(Response::Address),
            Request::ReleaseAddress(call) => {
                let done = self.release_address(&call).await.map(empty);
                self.releases.turn().await;
                done
            }
            Request::CreateNetwork(call) => {
                self.create_network(&call, go_plugin::Origin::Created).await.map(empty)
            }
            Request::DeleteNetwork(call) => self.delete_network(&call).await.map(empty),
            Request::CreateEndpoint(call) => self.create_endpoint(&call).await.map(Response::CreateEndpoint),
            Request::DeleteEndpoint(call) => self.delete_endpoint(&call).await.map(empty),
            Request::Join(call) => self.join(&call).await.map(|answer| Response::Join(Box::new(answer))),
            Request::Leave(call) => self.leave(&call).await.map(empty),
            Request::ProgramExternalConnectivity(call) => self.program_ports(&call).await.map(empty),
            Request::RevokeExternalConnectivity(call) => self.revoke_ports(&call).await.map(empty),
            stateless => Err(refused(format!("{stateless:?} has no answer"))),
        }
    }

    /// Tells the packet filter which pools there are.
    pub async fn refresh_pools(&self) -> Result<(), DriverError> {
        let pools = self.ipam.pools().await?;
        let nat = |pool: &Resource<IpPoolSpec>| PoolNat {
            cidr: pool.spec.cidr,
            nat_outgoing: pool.spec.nat_outgoing,
        };
        self.firewall.set_pools(pools.iter().map(nat).collect()).await.map_err(DriverError::Firewall)
    }
}

/// The answer to a call that needs neither datastore nor kernel; `None` for every other. dockerd makes such calls while
/// it starts a plugin, so they never wait for anything.
#[must_use]
pub fn answer_at_once(scopes: Scopes, request: &Request) -> Option<Response> {
    Some(match request {
        Request::Activate => Response::Activate { implements: ["NetworkDriver", "IpamDriver"] },
        Request::NetworkCapabilities => Response::NetworkCapabilities(NetworkCapabilities {
            scope: scopes.network,
            connectivity_scope: scopes.connectivity,
            gw_alloc_checker: true,
        }),
        Request::IpamCapabilities => Response::IpamCapabilities(IpamCapabilities::default()),
        Request::AddressSpaces => Response::AddressSpaces(AddressSpaces {
            local_default_address_space: ADDRESS_SPACE.to_owned(),
            global_default_address_space: ADDRESS_SPACE.to_owned(),
        }),
        // The next hop 169.254.1.1 is nobody's address, so none is reserved for a gateway.
        Request::GwAllocCheck(_) => {
            Response::GwAllocCheck(GwAllocCheckAnswer { skip_ipv4: true, skip_ipv6: true })
        }
        // Only what is answered reaches the workers, so the options are echoed.
        Request::AllocateNetwork(call) => {
            Response::AllocateNetwork(AllocateNetworkAnswer { options: call.options.clone() })
        }
        Request::FreeNetwork(_) | Request::DiscoverNew(_) | Request::DiscoverDelete(_) => Response::Empty {},
        // An error here stops the container on engines up to 28.1, and nobody reads the answer.
        Request::EndpointOperInfo(_) => Response::OperInfo(OperInfoAnswer::default()),
        _ => return None,
    })
}

fn empty((): ()) -> Response {
    Response::Empty {}
}

/// Whether a pool with this address space came from this plugin's IPAM.
fn is_own_address_space(space: &str) -> bool {
    space == ADDRESS_SPACE || LEGACY_ADDRESS_SPACES.contains(&space)
}

/// Metadata of an object created now.
fn new_metadata(name: &str) -> ObjectMeta {
    let timestamp = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
    ObjectMeta::created(name, uuid::Uuid::new_v4().to_string(), timestamp)
}

/// The alias of an endpoint's host interface: whose it is, and what would be lost with the process.
fn alias(id: &crate::model::EndpointId, sandbox: &Sandbox) -> String {
    format!("{ALIAS} endpoint={id} hop={} sandbox={}", sandbox.hop, sandbox.key)
}

/// The endpoint whose interface carries this alias, and where it is joined.
#[must_use]
pub fn parse_alias(alias: &str) -> Option<(crate::model::EndpointId, Sandbox)> {
    let rest = alias.strip_prefix(ALIAS)?.strip_prefix(" endpoint=")?;
    let (id, rest) = rest.split_once(" hop=")?;
    let (hop, key) = rest.split_once(" sandbox=")?;
    let id = crate::model::EndpointId::new(id).ok()?;
    Some((id, Sandbox { key: key.to_owned(), hop: hop.parse().ok()? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::EndpointId;

    #[test]
    fn an_alias_reads_back_and_fits_the_kernel() {
        let id = EndpointId::new(&"0123456789abcdef".repeat(4)).unwrap();
        let key = format!("/{}/netns/9ce6ebc00fc1", "long".repeat(99));
        let sandbox = Sandbox { key: Sandbox::name(&key).to_owned(), hop: 254 };
        let text = alias(&id, &sandbox);
        // IFALIASZ of linux/if_link.h is 256 with the terminator.
        assert!(text.len() < 256);
        assert_eq!(parse_alias(&text), Some((id, sandbox)));
        assert_eq!(parse_alias("uplink to the rack"), None);
    }
}
