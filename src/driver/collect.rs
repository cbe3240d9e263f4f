//! What the collector may ask: what there is, and to take away what nobody owns. The collector decides, the driver does,
//! with the same locks and in the same order as Docker's own calls.

use super::Drivers;
use super::address::handle_prefix;
use super::error::DriverError;
use super::index::LocalEndpoint;
use super::locks::Key;
use super::pool::CREATED_BY_ANNOTATION;
use crate::model::{
    EndpointId, IpPoolSpec, NETWORK_ANNOTATION, NetworkId, ORCHESTRATOR, Resource, WorkloadEndpointSpec,
    endpoint_name, endpoint_name_prefix, key, parse_endpoint_name,
};
use crate::store::Txn;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

impl Drivers {
    /// The endpoints of this node.
    pub fn local_endpoints(&self) -> Vec<LocalEndpoint> {
        self.endpoints.all()
    }

    /// WorkloadEndpoints of this node that the driver does not know: CreateEndpoint was told that the datastore failed,
    /// and it had not. No call of Docker's follows that would name them.
    pub async fn unknown_endpoints(&self) -> Result<Vec<EndpointId>, DriverError> {
        let stored = self.stored_endpoints().await?;
        Ok(stored.into_iter().filter(|id| self.endpoints.get(id).is_none()).collect())
    }

    /// The endpoints of this node in the datastore.
    pub(super) async fn stored_endpoints(&self) -> Result<BTreeSet<EndpointId>, DriverError> {
        let prefix =
            key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &endpoint_name_prefix(&self.options.node));
        let folder = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, "");
        let stored = self.store.list(&prefix).await?.entries;
        let of_node = |name: &str| parse_endpoint_name(name).filter(|(node, _)| *node == self.options.node);
        let ids = stored.iter().filter_map(|entry| of_node(entry.key.strip_prefix(&folder)?));
        Ok(ids.map(|(_, id)| id).collect())
    }

    /// Addresses that this plugin holds on this node and neither an endpoint nor a network uses; those that were handed
    /// out less than `settling` ago are on their way to an endpoint. Allocations of other components of the node
    /// (tunnels, Kubernetes) have other handles and are never among them.
    pub async fn unused_addresses(&self, settling: Duration) -> Result<Vec<IpAddr>, DriverError> {
        let prefix = handle_prefix(&self.options.node);
        let allocations = self.ipam.allocations_of_node().await?;
        // After the allocations: an auxiliary address is allocated before its network has a record.
        let networks = self.networks().await?;
        let unused = allocations.into_iter().filter(|allocation| {
            allocation.handle.as_deref().is_some_and(|handle| handle.starts_with(&prefix))
                && self.endpoints.owner_of(allocation.ip).is_none()
                && !self.is_settling(allocation.ip, settling)
                && !networks.iter().any(|network| network.has_aux(allocation.ip))
        });
        Ok(unused.map(|allocation| allocation.ip).collect())
    }

    fn is_settling(&self, ip: IpAddr, settling: Duration) -> bool {
        self.endpoints.reserved_since(ip).is_some_and(|since| since.elapsed() < settling)
    }

    /// Networks with a record and no endpoint.
    pub async fn idle_networks(&self) -> Result<Vec<NetworkId>, DriverError> {
        let networks = self.networks().await?;
        let busy: BTreeSet<NetworkId> = self.endpoints.all().into_iter().filter_map(|e| e.network).collect();
        Ok(networks.into_iter().map(|network| network.id).filter(|id| !busy.contains(id)).collect())
    }

    /// Names of pools that networks made and nobody uses.
    pub async fn unused_pools(&self) -> Result<Vec<String>, DriverError> {
        let mut unused = Vec::new();
        // Other nodes' networks are not known here, so a shared datastore's pools are the operator's to delete.
        if self.options.shared_datastore {
            return Ok(unused);
        }
        for pool in self.ipam.pools().await? {
            if self.is_unused_pool(&pool).await? {
                unused.push(pool.name().to_owned());
            }
        }
        Ok(unused)
    }

    async fn is_unused_pool(&self, pool: &Resource<IpPoolSpec>) -> Result<bool, DriverError> {
        if pool.metadata.annotation(CREATED_BY_ANNOTATION).is_some() {
            return Ok(!self.pool_is_used(&pool.spec.cidr, None).await?);
        }
        // A closed pool over a prefix of Docker's own IPAM belongs to one network.
        let Some(owner) = pool.metadata.annotation(NETWORK_ANNOTATION) else { return Ok(false) };
        Ok(!self.networks().await?.iter().any(|network| network.id.as_str() == owner))
    }

    /// Removes an endpoint as it was `seen` and gives its addresses back. One that was joined or left meanwhile is
    /// somebody's.
    pub async fn collect_endpoint(&self, seen: &LocalEndpoint) -> Result<(), DriverError> {
        {
            let _held = self.locks.hold(Key::Endpoint(seen.id.clone())).await;
            match self.endpoints.get(&seen.id) {
                Some(now) if now.sandbox == seen.sandbox => self.remove_held_endpoint(&seen.id).await?,
                Some(_) | None => return Ok(()),
            }
        }
        for ip in &seen.ips {
            self.collect_address(*ip, Duration::ZERO).await?;
        }
        Ok(())
    }

    /// Deletes the WorkloadEndpoint of an endpoint that the driver does not know.
    pub async fn collect_unknown_endpoint(&self, id: &EndpointId) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        if self.endpoints.get(id).is_none() {
            self.delete_workload_endpoint(id).await?;
        }
        Ok(())
    }

    /// Deletes an endpoint's WorkloadEndpoint, if there is one.
    pub(super) async fn delete_workload_endpoint(&self, id: &EndpointId) -> Result<(), DriverError> {
        let name = endpoint_name(&self.options.node, id);
        let key = key::namespaced::<WorkloadEndpointSpec>(ORCHESTRATOR, &name);
        self.store.commit(Txn::new().remove(key)).await?;
        Ok(())
    }

    /// Gives an address back, unless an endpoint has taken it meanwhile, or it was handed out less than `settling` ago.
    pub async fn collect_address(&self, ip: IpAddr, settling: Duration) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Address(ip)).await;
        if self.endpoints.owner_of(ip).is_some() || self.is_settling(ip, settling) {
            return Ok(());
        }
        self.release_own(ip).await
    }

    /// Forgets a network.
    pub async fn collect_network(&self, id: &NetworkId) -> Result<(), DriverError> {
        self.remove_network(id).await
    }

    /// Removes an interface of an endpoint that does not exist.
    pub async fn collect_link(&self, id: &EndpointId) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Endpoint(id.clone())).await;
        match self.endpoints.get(id) {
            Some(_) => Ok(()),
            None => self.remove_stray_link(id).await,
        }
    }

    /// Deletes a pool, unless a network has come to use it meanwhile.
    pub async fn collect_pool(&self, name: &str) -> Result<(), DriverError> {
        let _held = self.locks.hold(Key::Pools).await;
        let pools = self.ipam.pools().await?;
        let Some(pool) = pools.iter().find(|pool| pool.name() == name) else { return Ok(()) };
        match self.is_unused_pool(pool).await? {
            true => self.delete_pool(pool).await,
            false => Ok(()),
        }
    }
}
