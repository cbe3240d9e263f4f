//! What the collector may ask: what there is, and to take away what nobody owns. The collector decides, the driver does,
//! with the same locks and in the same order as Docker's own calls.

use super::Drivers;
use super::address::handle_prefix;
use super::error::DriverError;
use super::index::LocalEndpoint;
use super::pool::CREATED_BY_ANNOTATION;
use super::record::IpamKind;
use crate::model::{EndpointId, NetworkId};
use std::collections::BTreeSet;
use std::net::IpAddr;

impl Drivers {
    /// The endpoints of this node.
    pub fn local_endpoints(&self) -> Vec<LocalEndpoint> {
        self.endpoints.all()
    }

    /// Addresses that this plugin holds on this node and neither an endpoint nor a network uses. Allocations of other
    /// components of the node (tunnels, Kubernetes) have other handles and are never among them.
    pub async fn unused_addresses(&self) -> Result<Vec<IpAddr>, DriverError> {
        let prefix = handle_prefix(&self.options.node);
        let networks = self.networks().await?;
        let allocations = self.ipam.allocations_of_node().await?;
        let unused = allocations.into_iter().filter(|allocation| {
            allocation.handle.as_deref().is_some_and(|handle| handle.starts_with(&prefix))
                && self.endpoints.owner_of(allocation.ip).is_none()
                && !networks.iter().any(|network| network.has_aux(allocation.ip))
        });
        Ok(unused.map(|allocation| allocation.ip).collect())
    }

    /// Networks with a record and no endpoint.
    pub async fn idle_networks(&self) -> Result<Vec<NetworkId>, DriverError> {
        let busy: BTreeSet<NetworkId> = self.endpoints.all().into_iter().filter_map(|e| e.network).collect();
        let networks = self.networks().await?;
        Ok(networks.into_iter().map(|network| network.id).filter(|id| !busy.contains(id)).collect())
    }

    /// Names of pools that `--subnet` made and nobody uses.
    pub async fn unused_pools(&self) -> Result<Vec<String>, DriverError> {
        let mut unused = Vec::new();
        for pool in self.ipam.pools().await? {
            let ours = pool.metadata.annotation(CREATED_BY_ANNOTATION).is_some();
            // Other nodes' networks are not known here, so a shared datastore's pools are the operator's to delete.
            if ours && !self.options.shared_datastore && !self.pool_is_used(&pool.spec.cidr).await? {
                unused.push(pool.name().to_owned());
            }
        }
        Ok(unused)
    }

    /// Removes an endpoint and gives its addresses back.
    pub async fn collect_endpoint(&self, id: &EndpointId) -> Result<(), DriverError> {
        let Some(endpoint) = self.endpoints.get(id) else { return Ok(()) };
        let ipam = match &endpoint.network {
            Some(network) => self.network(network).await.map_or(IpamKind::Calico, |record| record.ipam),
            None => IpamKind::Calico,
        };
        self.remove_endpoint(id).await?;
        if ipam == IpamKind::Calico {
            for ip in endpoint.ips {
                self.release_own(ip).await?;
            }
        }
        Ok(())
    }

    /// Gives an address back, unless an endpoint has taken it meanwhile.
    pub async fn collect_address(&self, ip: IpAddr) -> Result<(), DriverError> {
        if self.endpoints.owner_of(ip).is_some() {
            return Ok(());
        }
        self.endpoints.unreserve(ip);
        self.release_own(ip).await
    }

    /// Forgets a network.
    pub async fn collect_network(&self, id: &NetworkId) -> Result<(), DriverError> {
        self.remove_network(id).await
    }

    /// Removes an interface of an endpoint that does not exist.
    pub async fn collect_link(&self, id: &EndpointId) -> Result<(), DriverError> {
        let _held = self.locks.hold(id.as_str()).await;
        match self.endpoints.get(id) {
            Some(_) => Ok(()),
            None => self.remove_stray_link(id).await,
        }
    }

    /// Deletes a pool, unless a network has come to use it meanwhile.
    pub async fn collect_pool(&self, name: &str) -> Result<(), DriverError> {
        let pools = self.ipam.pools().await?;
        let Some(pool) = pools.iter().find(|pool| pool.name() == name) else { return Ok(()) };
        match self.pool_is_used(&pool.spec.cidr).await? {
            true => Ok(()),
            false => self.delete_pool(pool).await,
        }
    }
}
